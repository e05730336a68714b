"""Plain, compiled and captured updates are the same update; what cannot be captured is refused in one line.

What only a GPU can show is in test_execution_cuda.py. Here updates are traced to the operations that reach the arrays,
as a capture does, and run again without Python; and they run on PyTorch's device `meta`, which has no numbers to read.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mtrl import cli
from mtrl.agents.sac import SAC
from mtrl.execution import precision, runners, tracing
from mtrl.execution.runners import Snapshot
from mtrl.execution.tracing import Traced
from mtrl.gradients.diagnostics import transference, triad
from mtrl.monitoring import checkpoints
from mtrl.networks import NETWORKS
from tests.support.learners import Experience, agent, copy_state, distance, methods, tensors

PRODUCTS = tuple(getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "mv", "addmm", "baddbmm", "addmv"))
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


def traced(learner: SAC, experience: Experience, *, compiled: bool = False) -> SAC:
    """The agent, whose updates run as one graph."""
    snapshot = Snapshot(learner._state, learner.generator)
    runner = Traced(lambda: learner.update(*experience.draw()), snapshot, compiled=compiled)
    learner._learner = experience.draw, runner
    return learner


@pytest.mark.parametrize("method", methods())
def test_a_traced_update_is_the_plain_one_bit_for_bit(method: str) -> None:
    """While the replay grows and overwrites: nothing of an update lives in Python, and no tensor moves."""
    plain, other = agent(method), agent(method)
    data, same = Experience(plain), Experience(other)
    traced(other, same)
    for step in range(8):
        first, second = plain.learn(data.draw, 1 + step % 2), other.learn(same.draw, 1 + step % 2)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        data.grow(30)
        same.grow(30)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(other), strict=True))
    assert torch.equal(plain.generator.get_state(), other.generator.get_state())


@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_traced_updates_of_every_network(network: str) -> None:
    method = "none" if network == "independent" else "pcgrad"
    plain, other = agent(method, network), agent(method, network)
    data, same = Experience(plain), Experience(other)
    traced(other, same)
    plain.learn(data.draw, 5)
    other.learn(same.draw, 5)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(other), strict=True))


OPTIONS: list[dict[str, Any]] = [
    {"value_head": "two_hot", "normalise_observations": "shared", "n_step": 3},
    {"value_head": "hl_gauss", "popart": True, "normalise_observations": "per_task", "normalise_rewards": True},
    {"popart": True, "popart_rate": 0.1, "n_step": 2, "normalise_rewards": True},
    {"symlog": True, "reward_scale": 3.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
def test_traced_updates_with_other_heads_and_normalisation(options: dict[str, Any]) -> None:
    """Including statistics that move between and within updates. Nothing is read back."""
    plain, other = agent("pcgrad", "mlp", **options), agent("pcgrad", "mlp", **options)
    data, same = Experience(plain), Experience(other)
    traced(other, same)
    for _ in range(3):
        first, second = plain.learn(data.draw, 2), other.learn(same.draw, 2)
        assert all(torch.equal(first[name], second[name]) for name in first)
        data.grow(30)
        same.grow(30)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(other), strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
def test_updates_with_other_heads_and_normalisation_stay_on_the_device(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: value for name, value in options.items() if not name.startswith("normalise")}
    with _without_numbers(monkeypatch):
        learner = agent("pcgrad", "mlp", device="meta", **options)
    experience = Experience(learner)
    with NoTransfers():
        learner.learn(experience.draw, 2)
    assert all(t.device.type == "meta" for t in tensors(learner))


def test_traced_updates_that_are_watched() -> None:
    watching = (triad.Config(window=4), transference.Config(every=1, apply_to="both"))
    plain, other = agent(diagnostics=watching), agent(diagnostics=watching)
    data, same = Experience(plain), Experience(other)
    traced(other, same)
    first, second = plain.learn(data.draw, 6), other.learn(same.draw, 6)
    assert {"critic/triad/curvature", "critic/affinity", "actor/affinity"} < first.keys() == second.keys()
    assert all(torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first)
    seldom = (transference.Config(every=10),)
    with pytest.raises(ValueError, match="plain with this diagnostic, which works on the host"):
        agent(diagnostics=seldom, execution="compiled")


def test_traced_updates_go_on_bit_for_bit_from_a_saved_state() -> None:
    learner = agent()
    experience = Experience(learner)
    traced(learner, experience).learn(experience.draw, 5)
    saved = copy.deepcopy(learner.state_dict())
    other = agent(seed=9)
    same = Experience(other)
    other.load_state_dict(saved)
    traced(other, same)
    learner.learn(experience.draw, 5)
    other.learn(same.draw, 5)
    assert all(torch.equal(a, b) for a, b in zip(tensors(learner), tensors(other), strict=True))


class Products(TorchDispatchMode):
    """Counts matrix products under each precision."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.counts[torch.get_float32_matmul_precision()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["pcgrad", "auto_lambda"])
def test_a_graph_keeps_the_precision_of_each_product(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TF32 for the networks, the products of the tasks' gradients stay in full float32.

    The graph asks for the same products as the plain update. On a processor that has another kernel for `high`, their
    rounding may depend on where arrays lie in memory, so only full float32 is promised bit for bit.
    """
    monkeypatch.setattr(precision, "network_level", lambda *_: "high")
    plain, other = agent(method), agent(method)
    data, same = Experience(plain), Experience(other)
    runner = Traced(
        lambda: other.update(*same.draw()), Snapshot(other._state, other.generator), compiled=False, products="high"
    )
    graph: Any = runner.prepare()
    recorded = Counter(node.target for node in graph.graph.nodes)
    with Products() as made:
        plain.learn(data.draw, 1)
    assert recorded[torch.ops.mtrl.exact_product.default] == made.counts["highest"] > 0
    assert sum(recorded[product] for product in PRODUCTS) == made.counts["high"] > 0
    runner(1)
    assert distance(tensors(plain), tensors(other)) < 1e-5


@pytest.mark.parametrize("shapes", [((7, 5), (5,)), ((7, 5), (5, 3)), ((2, 7, 5), (2, 5, 3))])
def test_an_exact_product_is_the_plain_one_under_any_precision(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Bit for bit what the plain update calls (mv, mm, bmm), and within float32's rounding of float64."""
    first, second = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    plain = {1: torch.mv, 2: torch.mm, 3: torch.bmm}[second.ndim](first, second)
    for level in ("highest", "high", "medium"):
        with precision.float32_products(level):
            found = tracing.exact_product(first, second)
        assert torch.equal(found, plain), level
        torch.testing.assert_close(found.double(), first.double() @ second.double(), rtol=1e-5, atol=1e-6)
    torch.library.opcheck(tracing.exact_product, (first, second), test_utils="test_faketensor")


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("method", ["pcgrad", "auto_lambda", "dwa"])
def test_trial_updates_leave_nothing_behind(method: str, started: bool) -> None:
    """After earlier updates, the state is as it was. With or without them, learning goes on as without the trial."""
    learner, untouched = agent(method), agent(method)
    data, same = Experience(learner), Experience(untouched)
    if started:
        learner.learn(data.draw, 3)
        untouched.learn(same.draw, 3)
    before = [t.clone() for t in tensors(learner)]
    with Snapshot(learner._state, learner.generator):
        for _ in range(runners.WARMUP):
            learner.update(*data.draw())
    after = tensors(learner)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=False)) or not started
    assert len(before) == len(after) or not started
    learner.learn(data.draw, 3)
    untouched.learn(same.draw, 3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(learner), tensors(untouched), strict=True))
    assert torch.equal(learner.generator.get_state(), untouched.generator.get_state())


def test_a_loaded_agent_forgets_its_graph() -> None:
    learner = agent()
    experience = Experience(learner)
    traced(learner, experience).learn(experience.draw, 1)
    learner.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert learner._learner is None


@contextlib.contextmanager
def _without_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let agents be built on the device `meta`: its tensors have shapes and a device, and no numbers."""
    generator = torch.Generator
    monkeypatch.setattr(
        sys.modules[torch.optim.Adam.__module__], "_device_dtype_check_for_fused", lambda *_, **__: None
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", type("Generator", (), {"__new__": lambda *_: generator()}))
        yield


class NoTransfers(TorchDispatchMode):
    """Refuses arrays of the host in any operation; numbers of the host may be arguments, except of copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type == "meta" or t.ndim == 0 for t in given), func
        assert func not in COPIES or all(t.device.type == "meta" for t in given), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("method", "network"), [*((m, "multi_head") for m in methods()), *(("auto_lambda", n) for n in NETWORKS.kinds)]
)
def test_an_update_and_its_draws_stay_on_the_device(method: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no numbers, nothing can be read back; nor can anything come from another device."""
    with _without_numbers(monkeypatch):
        learner = agent(method, network=network, device="meta")
    experience = Experience(learner)
    with NoTransfers():
        learner.learn(experience.draw, 2)
    assert all(t.device.type == "meta" for t in tensors(learner))


def test_methods_that_wait_for_the_host_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    with _without_numbers(monkeypatch):
        learner = agent("mgda", device="meta")
    with pytest.raises((NotImplementedError, RuntimeError)):
        learner.learn(Experience(learner).draw, 1)
    for method, part in (("mgda", "this surgery"), ("gradvac", "this surgery")):
        with pytest.raises(ValueError, match=f"`agent.execution` should be plain with {part}.*Found 'compiled'"):
            agent(method, execution="compiled")
        assert agent(method).execution == "plain"


def test_a_compiled_run_learns_as_a_plain_one_and_goes_on_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """From the first update on. A run may go on under another execution, and an evaluation needs no compiler."""
    run = ["train", "benchmark=toy", "device=cpu", f"runs={tmp_path}", "surgery=pcgrad", "network.width=8"]
    run += ["agent.batch_size=4", "training.learning_starts=10", "training.final_episodes=2"]
    assert cli.main([*run, "steps=30", "agent.execution=compiled", "experiment=one"]) == 0
    assert "being compiled" in capsys.readouterr().err and "continue as before" not in caplog.text
    assert cli.main([*run, "steps=30", "agent.execution=plain", "experiment=two"]) == 0
    found = [checkpoints.load(tmp_path / "toy" / name / "seed_1/checkpoints/step_30") for name in ("one", "two")]
    learned = [list(runners.tensors([state["trainer"]["agent"][k] for k in ("actor", "critic")])) for state in found]
    assert distance(*learned) < 1e-4
    assert cli.main([*run, "steps=40", "agent.execution=plain", "experiment=one"]) == 0
    assert "Going on from step 30" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path / "toy" / "one" / "seed_1"), "--episodes", "2"]) == 0


@pytest.mark.slow
def test_one_compiled_update_is_the_plain_one_from_a_hundred_states() -> None:
    plain, other = agent(), agent()
    data, same = Experience(plain), Experience(other)
    traced(other, same, compiled=True)
    plain.learn(data.draw, 1)
    other.learn(same.draw, 1)
    for _ in range(100):
        copy_state(plain, other)
        first, second = plain.learn(data.draw, 1), other.learn(same.draw, 1)
        assert distance(tensors(plain), tensors(other)) < 1e-5
        losses = [[metrics[f"{part}/loss"] for part in ("critic", "actor")] for metrics in (first, second)]
        assert distance(*losses) < 1e-5
        data.grow()
        same.grow()
    saved = copy.deepcopy(other.state_dict())
    other.learn(same.draw, 3)
    ahead = [t.clone() for t in tensors(other)]
    put_back(other, saved)
    other.learn(same.draw, 3)
    assert all(torch.equal(a, b) for a, b in zip(ahead, tensors(other), strict=True)), "resumed bit for bit"


def put_back(learner: SAC, saved: dict[str, Any]) -> None:
    """Load in place, as `copy_state`: the test need not compile again."""
    kept = {name: value for name, value in saved.items() if name != "generator"}
    with torch.no_grad():
        for new, old in zip(runners.tensors(kept), tensors(learner), strict=True):
            old.copy_(new)
    learner.generator.set_state(saved["generator"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "pcgrad", "auto_lambda"])
def test_a_hundred_compiled_updates_are_the_plain_ones_in_float64(method: str) -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        plain, other = agent(method), agent(method)
        data, same = Experience(plain), Experience(other)
        traced(other, same, compiled=True)
        plain.learn(data.draw, 100)
        other.learn(same.draw, 100)
    finally:
        torch.set_default_dtype(default)
    assert tensors(plain)[0].dtype == torch.float64
    assert distance(tensors(plain), tensors(other)) < 1e-8
