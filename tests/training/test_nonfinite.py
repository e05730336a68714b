"""Numbers that are not finite end a run with one line, or take it back to a checkpoint; what is kept is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl import cli
from mtrl.core.specs import KeyframeSpec
from mtrl.core.types import StepResult
from mtrl.envs.toy import ToyEnvs
from mtrl.monitoring import checkpoints
from mtrl.training.behaviour_cloning import CloningTrainer, Config
from mtrl.training.trainer import NotFinite
from tests.support import cloning
from tests.support.tiny_runs import TINY, run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")

FAST = [
    "steps=64", "device=cpu", "agent.learning_rate=1e30", "training.log_every=8", "training.checkpoint_every=16",
]  # fmt: skip
IMAGES = ["agent.batch_size=4", "benchmark.train_size=40"]
SMALL = ["network.width=8", "network.depth=1"]
LOOPS = {
    "off_policy": ["benchmark=toy", "training.learning_starts=20", *SMALL],
    "on_policy": ["benchmark=toy", "agent=ppo", "training=on_policy", "training.rollout_steps=8", *SMALL],
    "goal_conditioned": [
        "benchmark=pushing", "benchmark.num_goals=3", "benchmark.goals_per_rollout=2", "benchmark.held_out_goals=2",
        "training.learning_starts=20", "training.evaluate_first=false", *SMALL,
    ],
    "supervised": ["benchmark=digit_domains", *IMAGES],
    "auxiliary": ["benchmark=digits", "agent=auxiliary", "agent.method=none", *IMAGES],
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_every_training_loop_stops_with_task_quantity_and_step(loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *LOOPS[loop], *FAST]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mtrl: Training's numbers should be finite. Found at step ")
    assert "loss" in error and "Training stopped" in error
    assert not list(Path("runs").rglob("result.json"))
    kept = checkpoints.latest(run_folder() / "checkpoints")
    assert kept is None or all_finite(checkpoints.load(kept)["trainer"]["agent"])


def test_cloning_stops_too() -> None:
    agent = cloning.agent(learning_rate=1e30)
    suite = SimpleNamespace(spec=KeyframeSpec(tuple("abc"), ("front", "wrist"), cloning.H))
    trainer = CloningTrainer(Config(), agent=agent, suite=suite, seed=0, steps=9)
    trainer.check_finite({})
    metrics = {}
    for number in range(2):
        metrics = agent.update(cloning.batch(number))
    with pytest.raises(NotFinite, match=r"at step 0 NaN in loss \(all tasks\) and NaN in the agent's network"):
        trainer.check_finite(metrics)


def test_a_gradient_that_overflowed_once_is_found_later() -> None:
    """In what the optimiser keeps of it, though losses and parameters are finite again."""
    agent = cloning.agent()
    agent.update(cloning.batch(0))
    suite = SimpleNamespace(spec=KeyframeSpec(tuple("abc"), ("front", "wrist"), cloning.H))
    trainer = CloningTrainer(Config(), agent=agent, suite=suite, seed=0, steps=9)
    moments = next(iter(agent.optimizer.optimizer.state.values()))
    moments["exp_avg"].view(-1)[0] = torch.inf
    with pytest.raises(NotFinite, match="an infinite number in the agent's optimizer/state/0/exp_avg"):
        trainer.check_finite({})


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[StepResult], None], calls: range) -> None:
    """Change what the environments' steps give, at these calls of `step`, counted over all environments."""
    original, count = ToyEnvs.step, [0]

    def step(envs: ToyEnvs, action: Any) -> StepResult:
        result = original(envs, action)
        if count[0] in calls:
            change(result)
        count[0] += 1
        return result

    monkeypatch.setattr(ToyEnvs, "step", step)


def reward(value: float) -> Callable[[StepResult], None]:
    def change(result: StepResult) -> None:
        result.reward[1] = value

    return change


def observation(value: float) -> Callable[[StepResult], None]:
    def change(result: StepResult) -> None:
        result.next_observation[2, 0, 1] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (reward(np.nan), "NaN in the training data's rewards (task turn-90)"),
        (reward(1e300), "a number too large to learn from in the training data's rewards (task turn-90)"),
        (reward(-1e20), "a number too large to learn from in the training data's rewards (task turn-90)"),
        (observation(np.nan), "NaN in the training data's observations (task turn-180)"),
        (observation(-np.inf), "a number too large to learn from in the training data's observations (task turn-180)"),
        (observation(1e38), "a number too large to learn from in the training data's observations (task turn-180)"),
    ],
)
@pytest.mark.parametrize("first", [5, 35])
def test_data_are_named_by_their_task_and_the_last_sound_checkpoint_is_kept(
    change: Callable[[StepResult], None],
    named: str,
    first: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the warm-up as well as later."""
    spoil(monkeypatch, change, range(first, first + 1))
    assert cli.main(["train", *TINY]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"Found at step {20 if first < 20 else 40} {named}" in error
    kept = checkpoints.latest(run_folder() / "checkpoints")
    assert kept is not None and kept.name == ("step_1" if first < 20 else "step_30") and str(kept) in error
    assert all_finite(checkpoints.load(kept)["trainer"]) and all_finite(checkpoints.load_replay(kept))


def test_normalisation_does_not_hide_a_large_observation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, observation(1e38), range(1))
    options = ["steps=16", "training.log_every=16", "training.final_episodes=1"]
    assert cli.main(["train", *LOOPS["on_policy"], *options]) == 2
    assert "a number too large to learn from in the training data's observations" in capsys.readouterr().err


def test_a_rollback_goes_on_from_the_checkpoint_with_other_random_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *TINY, "experiment=sound"]) == 0
    spoil(monkeypatch, reward(np.nan), range(35, 36))
    assert cli.main(["train", *TINY, "experiment=x", "on_nonfinite=rollback"]) == 0
    assert "Rollback 1 of 3, to step 30." in capsys.readouterr().err
    states = {}
    for name in ("sound", "x"):
        folder = Path(f"runs/toy/{name}/seed_1")
        states[name] = checkpoints.load(folder / "checkpoints/step_60")["trainer"]
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps) and steps.count(40) == 1
    assert (states["sound"]["rollbacks"], states["x"]["rollbacks"]) == (0, 1)
    weights = [next(iter(state["agent"]["actor"].values())) for state in states.values()]
    assert all_finite(states["x"]) and not torch.equal(*weights)


@pytest.mark.parametrize("most", [0, 2])
def test_rollbacks_are_limited(most: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(monkeypatch, reward(np.inf), range(35, 10_000))
    options = ["on_nonfinite=rollback", f"training.max_rollbacks={most}"]
    assert cli.main(["train", *TINY, *options]) == 2
    error = capsys.readouterr().err
    assert error.count(" of 2, to step 30") == most and "Training stopped" in error.splitlines()[-1]


def all_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(all_finite(item) for item in value.values())
    return all(map(all_finite, value)) if isinstance(value, list | tuple) else True
