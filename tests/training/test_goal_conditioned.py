"""Training on some of many goals at a time: what is collected, updated, evaluated and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import mtrl
from mtrl import experiment
from mtrl.cli import main
from mtrl.core.errors import UserError
from mtrl.core.subset import ALL_TASKS, SomeTasks, TaskSubset
from mtrl.execution.runners import Snapshot, tensors
from mtrl.execution.tracing import Traced
from mtrl.experiment.load import load
from mtrl.training.goal_conditioned import GoalTrainer

SMALL = [
    "benchmark=pushing", "benchmark.num_goals=12", "benchmark.goals_per_rollout=4", "benchmark.held_out_goals=3",
    "benchmark.horizon=6", "benchmark.threads=1", "network.width=8", "agent.batch_size=4", "training.learning_starts=6",
    "training.update_to_data=0.34", "device=cpu",
]  # fmt: skip
HINDSIGHT = ["replay=hindsight", "benchmark.reward=distance"]


def parts(*options: str) -> tuple[experiment.Experiment, GoalTrainer]:
    made = experiment.Experiment(experiment.compose([*SMALL, *options]))
    return made, cast("GoalTrainer", made.trainer.start())


def test_rollouts_fill_the_rings_of_their_goals() -> None:
    made, trainer = parts()
    trainer.advance()
    for _ in range(6 * 4 - 1):
        goals = trainer.envs.present
        before = trainer.replay.sizes
        trainer.advance()
        added = trainer.replay.sizes - before
        assert added.sum() == 4 * 3
        assert (added[goals.task] == 3).all()
    assert trainer.step == 3 * 24
    assert trainer.tasks_per_step == 4
    assert trainer.updates == pytest.approx(0.34 * (trainer.step - 3), abs=1)
    assert made.suite.spec.goals_per_batch == 4


@pytest.mark.parametrize(
    "options",
    [
        ["network=mint"], ["network=mint", "network.generator=low_rank"], ["network=film"], ["network=mlp"],
        ["network=concat_all"], ["network=superposition"], ["network=independent"], ["network=multi_head"],
        ["network=mlp", "surgery=pcgrad"], ["network=mlp", "weighting=auto_lambda"], ["network=mint", *HINDSIGHT],
        ["network=mint", "surgery=pcgrad", "agent.shared_temperature=true"],
        ["agent=td3", "network=mint", "surgery=pcgrad"], ["agent=td3", "network=mlp", "weighting=auto_lambda"],
        ["network=mint", "agent.popart=true", "agent.normalise_observations=per_task", "agent.normalise_rewards=true"],
        ["network=film", "agent.value_head=hl_gauss", "agent.popart=true", "agent.normalise_observations=shared"],
    ],
    ids=lambda options: "-".join(o.rpartition("=")[2] for o in options),
)  # fmt: skip
def test_every_method_learns_from_some_goals(options: list[str]) -> None:
    made, trainer = parts(*options)
    before = [p.detach().clone() for p in made.agent.actor.parameters()]
    metrics: Any = None
    for _ in range(8):
        metrics = trainer.advance() or metrics
    assert all(value.ndim == 0 and bool(torch.isfinite(value)) for value in metrics.values())
    after = list(made.agent.actor.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    trainer.close()


NORMAL = ["agent.popart=true", "agent.normalise_observations=per_task", "agent.normalise_rewards=true"]


@pytest.mark.parametrize(
    "options", [HINDSIGHT, ["network=multi_head", "weighting=auto_lambda", "surgery=pcgrad"], NORMAL]
)
def test_updates_of_some_goals_can_be_one_graph(options: list[str]) -> None:
    """Drawing goals and rows, relabelling, gradients, steps: traced, they are the plain updates bit for bit."""
    (made, trainer), (other, same) = parts(*options), parts(*options)
    for _ in range(9):
        trainer.advance()
        same.advance()
    snapshot = Snapshot(other.agent._state, other.agent.generator)
    other.agent._learner = same._draw, Traced(lambda: other.agent.update(*same._draw()), snapshot, compiled=False)
    for _ in range(9):
        trainer.advance()
        same.advance()
    pairs = zip(tensors(made.agent._state()), tensors(other.agent._state()), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    trainer.close()
    same.close()


@pytest.mark.parametrize(
    "options", [[], HINDSIGHT, ["network=multi_head", "weighting=auto_lambda"], [*NORMAL, "agent=td3"]]
)
def test_training_goes_on_exactly_from_a_saved_state(options: list[str]) -> None:
    made, trainer = parts(*options)
    for _ in range(9):
        trainer.advance()
    state, data = trainer.state_dict(), trainer.data_state()
    again, other = parts(*options)
    other.load_state_dict(state)
    other.load_data_state(data)
    for _ in range(9):
        trainer.advance()
        other.advance()
    for one, two in zip(made.agent.actor.parameters(), again.agent.actor.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    for name, value in trainer.report().items():
        np.testing.assert_array_equal(value, other.report()[name] if name == "success" else value)


def test_temperatures_are_each_goals_own_or_shared() -> None:
    made, trainer = parts()
    for _ in range(4):
        trainer.advance()
    moved = made.agent.log_alpha.detach() != 0
    assert 0 < int(moved.sum()) < 12
    shared, trainer = parts("agent.shared_temperature=true")
    for _ in range(4):
        trainer.advance()
    assert shared.agent.log_alpha.shape == (1,)
    assert shared.agent.log_alpha.item() != 0


def test_an_evaluation_is_of_the_first_goals_of_each_kind() -> None:
    made, trainer = parts()
    seen: list[SomeTasks] = []
    act = made.agent.act

    def spy(observation: torch.Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> torch.Tensor:
        assert isinstance(subset, SomeTasks)
        assert not explore
        seen.append(subset)
        return act(observation, explore, subset)

    made.agent.act = spy
    found = trainer.evaluate(5, "goals")
    trained, held_out = (found.groups[name] for name in ("training_goals", "held_out_goals"))
    assert (len(trained["distance"]), len(held_out["distance"])) == (5, 3)
    assert seen[0].task.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(seen[0].code, made.suite.spec.goals[:5])
    torch.testing.assert_close(seen[-1].code, made.suite.subset_of(made.suite.held_out).code)
    start = np.linalg.norm(made.suite.goals[:5, 2:] - made.suite.goals[:5, :2], axis=1)
    np.testing.assert_allclose(trained["distance"], start, atol=0.05)
    facts = found.to_json(made.tasks)
    assert facts["mean_distance"] == pytest.approx(trained["distance"].mean())
    assert facts["tasks"]["held_out_goals"]["mean_distance"] == pytest.approx(held_out["distance"].mean())
    trainer.close()


def test_a_run_keeps_its_goals_and_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["steps=60", "training.evaluate_every=30", "training.evaluation_episodes=2", f"runs={tmp_path}"]
    assert main(["train", *SMALL, *options, "experiment=x"]) == 0
    folder = tmp_path / "pushing" / "x" / "seed_1"
    result = json.loads((folder / "result.json").read_text())
    suite = experiment.Experiment(experiment.compose(SMALL)).suite
    assert result["training_goals"] == suite.goals.tolist()
    assert result["held_out_goals"] == suite.held_out.tolist()
    assert result["steps_total"] == 60 * 4
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row["step"] for row in rows if "evaluation/distance/held_out_goals" in row]
    assert evaluated == [0, 30, 60, 60]
    assert (folder / "learning_curves.png").exists()
    assert main(["evaluate", str(folder), "--episodes", "12"]) == 0
    assert "held_out_goals" in capsys.readouterr().out


def test_bad_options_end_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (
        ["training.replay=forward"],
        ["replay=hindsight"],
        ["training.protocol=upstream"],
        ["benchmark.goals_per_rollout=13"],
        ["weighting=dwa"],
        ["surgery=gcs", "surgery.primary=[0]"],
        ["surgery=gradvac"],
        ["diagnostics=triad"],
        ["network=independent", "surgery=pcgrad"],
        ["agent.n_step=2"],
    ):
        assert main(["train", *SMALL, *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert "should be" in error


def test_a_loaded_policy_acts_for_known_and_new_goals(tmp_path: Path) -> None:
    assert main(["train", *SMALL, "steps=9", f"runs={tmp_path}", "experiment=x", "network=mlp"]) == 0
    folder = tmp_path / "pushing" / "x" / "seed_1"
    policy = mtrl.load_policy(folder)
    suite = load(folder)[0].suite
    observation = np.random.default_rng(0).normal(size=(5, 22))
    known = policy.act(observation, "goal-03")
    np.testing.assert_allclose(policy.act(observation, goal=suite.goals[3]), known, atol=1e-6)
    assert not np.allclose(policy.act(observation, goal=suite.held_out[0]), known)
    assert policy.act(observation[0], goal=suite.held_out[0]).shape == (4,)
    with pytest.raises(UserError, match=r"y of its place in 0\.85"):
        policy.act(observation, goal=[0.0, 0.65, 0.0, 0.7])
    with pytest.raises(UserError, match="goal-03"):
        policy.act(observation)


def test_a_run_on_goals_starts_from_no_other() -> None:
    made = experiment.Experiment(experiment.compose(SMALL))
    with pytest.raises(UserError, match="`start` should be left out where tasks are goals"):
        made.trainer.begin_from(None)
