"""PPO's steps on minibatches, compiled or traced, are the plain ones."""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any

import pytest
import torch

from mtrl.agents.ppo import PPO
from mtrl.core.cores import torch_threads
from mtrl.core.errors import UserError
from mtrl.execution import runners, tracing
from mtrl.gradients import Methods
from tests.support.on_policy import make, rollout, state


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps run as a graph, in the plain order of operations."""
    monkeypatch.setattr(tracing, "Traced", functools.partial(tracing.Traced, compiled=False))


def same(one: PPO, other: PPO) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {"normalise_observations": "per_task"}),
    ("pcgrad", {"minibatches": 5, "entropy_coefficient": 0.01}),
    ("auto_lambda", {"popart": False, "value_head": "hl_gauss"}),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("method", "options"), VARIANTS, ids=[method for method, _ in VARIANTS])
@pytest.mark.usefixtures("traced")
def test_traced_steps_are_the_plain_ones_bit_for_bit(method: str, options: dict[str, Any], threads: int) -> None:
    """In every rollout, while data, schedules and statistics change; minibatches of two sizes (5 of 48 steps) too."""
    schedules = {"final_learning_rate": 0.1, "final_max_std": 0.2}
    plain, other = (
        make(methods=Methods.of(method), execution=execution, **schedules, **options)
        for execution in ("plain", "compiled")
    )
    with torch_threads(threads):
        for number, progress in enumerate((0.0, 0.4, 0.9)):
            found = [agent.learn(rollout(agent, number), progress) for agent in (plain, other)]
            assert found[0][1] == found[1][1]
            assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())
            assert same(plain, other)


@pytest.mark.parametrize(("first", "second"), [("plain", "compiled"), ("compiled", "plain"), ("compiled", "compiled")])
@pytest.mark.usefixtures("traced")
def test_a_saved_learner_goes_on_under_any_execution(first: str, second: str) -> None:
    """Into a learner that has compiled its steps already, as after a rollback."""
    one, other = make(execution=first), make(execution=second, seed=5)
    one.learn(rollout(one, 1), 0.1)
    other.learn(rollout(other, 1), 0.1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        learner.learn(rollout(learner, 2), 0.6)
    assert same(one, other)


def test_steps_that_become_due_for_compilation_within_a_pass_are_compiled_before_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By one thread after another, since two threads cannot trace at the same time."""
    monkeypatch.setitem(runners.PATIENCE, "cpu", 5)
    compiling: list[tuple[int, threading.Thread]] = []

    class Watched(tracing.Traced):
        def prepare(self) -> Any:
            if self._call is None:
                compiling.append((int(agent.actor_optimizer.step_count), threading.current_thread()))
            return super().prepare()

    monkeypatch.setattr(tracing, "Traced", functools.partial(Watched, compiled=False))
    agent = make(execution="auto", minibatches=3, epochs=4, target_kl=None)
    plain = make(execution="plain", minibatches=3, epochs=4, target_kl=None)
    with torch_threads(2):
        for learner in (agent, plain):
            learner.learn(rollout(learner, 1), 0.1)
    assert same(agent, plain)
    assert compiling == 2 * [(6, threading.current_thread())]
    assert not caplog.records


@pytest.mark.parametrize("minibatches", [3, 5])
def test_all_sizes_of_pairs_of_minibatches_are_compiled_before_the_threads_start(
    minibatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling: list[threading.Thread] = []

    class Watched(tracing.Traced):
        def prepare(self) -> Any:
            if self._call is None:
                compiling.append(threading.current_thread())
            return super().prepare()

    monkeypatch.setattr(tracing, "Traced", functools.partial(Watched, compiled=False))
    monkeypatch.setattr(runners, "_check_compiler", lambda _: None)
    agent = make(methods=Methods.of("auto_lambda"), execution="compiled", minibatches=minibatches, epochs=1)
    data = rollout(agent)
    compiling.clear()
    with torch_threads(2):
        agent.learn(data, 0.1)
    kinds = 1 if minibatches == 3 else 4  # 48 samples: of one size, or of two in any order
    assert compiling == 2 * kinds * [threading.current_thread()]


def test_compiled_steps_are_the_plain_ones_in_double_precision() -> None:
    """Of an actor with surgery and a critic without."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    methods = Methods(surgery=Methods.of("pcgrad").surgery, critic_surgery=Methods.of("none").surgery)
    try:
        plain, other = (make(methods=methods, execution=execution) for execution in ("plain", "compiled"))
        start = copy.deepcopy(state(plain))
        with torch_threads(2):
            for number, progress in enumerate((0.0, 0.5)):
                for agent in (plain, other):
                    agent.learn(rollout(agent, number), progress)
    finally:
        torch.set_default_dtype(default)
    for before, one, two in zip(start, state(plain), state(other), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-7 * float((one - before).abs().max()) + 1e-12)


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(UserError, match=r"`agent\.execution`"):
        make(methods=Methods.of("mgda"), execution="compiled")
    assert make(methods=Methods.of("mgda"), execution="auto").execution == "plain"
    assert make(execution="auto").execution == "auto"
