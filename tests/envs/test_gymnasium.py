"""The adapter gives what Gymnasium's environments give, and goes on exactly from a saved state."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.experiment import Experiment, compose
from mtrl.training.off_policy import OffPolicyTrainer
from tests.support.gymnasium_toys import GYMNASIUM, IDS, Quick, register, suite
from tests.support.tiny_runs import run_folder
from tests.support.videos import frames_in


class Wide(Quick):
    def render(self) -> Any:
        return np.full((60, 700, 3), 20 * self.count, np.uint8)


class Double(Quick):
    action_space = gymnasium.spaces.Box(-3, 5, (1,), np.float64)


register("mtrl-test/Wide-v0", Wide)
register("mtrl-test/Double-v0", Double)


def constant(value: float) -> Any:
    return lambda observation: np.full((*observation.shape[:2], 1), value, np.float32)


def test_a_task_is_its_environment() -> None:
    """Observations, rewards and ends are the environment's own, for actions in its own units."""
    envs = suite().make_envs(3, 2)
    observation, rng = envs.reset(), np.random.default_rng(0)
    assert observation.dtype == np.float32
    reference = gymnasium.make(IDS[0])
    first = reference.reset(seed=int(np.random.SeedSequence((3, 0, 0, 1)).generate_state(1)[0]))[0]
    assert np.array_equal(observation[0, 1], first)
    for number in range(1, 201):
        action = rng.uniform(-1, 1, (2, 2, 1)).astype(np.float32)
        step = envs.step(action)
        found, reward, terminated, truncated, _ = reference.step(2 * action[0, 1])  # Pendulum's torque is in [-2, 2]
        assert np.allclose(step.next_observation[0, 1], found, atol=1e-6)
        assert step.reward[0, 1] == pytest.approx(float(reward), abs=1e-6)
        assert (step.terminated[0, 1], step.truncated[0, 1]) == (terminated, truncated) == (False, number == 200)
        same = np.array_equal(step.observation[0, 1], step.next_observation[0, 1])
        assert same == (number < 200), "the true successor where an episode ends, and the next one's beginning"


@pytest.mark.parametrize("second", ["mtrl-test/Quick-v0", "mtrl-test/Double-v0"])
def test_actions_are_scaled_and_success_is_what_the_environment_says(second: str) -> None:
    """Of single and of double precision, neither with a warning."""
    envs = suite(ids=[IDS[0], second], solved_at=1e9).make_envs(0, 1)
    found = []
    for value in (-1.0, 0.0, 1.0, 7.0, 0.5):
        step = envs.step(np.full((2, 1, 1), value, np.float32))
        found.append((step.reward[1, 0], bool(step.success[1, 0]), bool(step.terminated[1, 0])))
    assert found == [(reward, reward == 3, reward == 3) for reward in (-3.0, 1.0, 5.0, 5.0, 3.0)]


def test_a_return_at_the_threshold_solves_an_episode_at_its_end() -> None:
    for threshold, expectation in ((-1e9, True), (0.0, False)):
        envs = suite(ids=IDS[:1], solved_at=threshold, horizon=4).make_envs(0, 1)
        found = [envs.step(np.zeros((1, 1, 1), np.float32)).success.item() for _ in range(4)]
        assert found == [False, False, False, expectation]


@pytest.mark.parametrize(
    ("options", "tells", "thresholds"),
    [
        ({"ids": IDS[:1]}, False, [None]),  # Pendulum-v1 has no threshold, and says nothing
        ({"ids": IDS[1:]}, True, [None]),
        ({}, False, [None, None]),
        ({"solved_at": -300.0}, True, [-300.0, -300.0]),
        ({"ids": ["MountainCarContinuous-v0"]}, True, [90.0]),
    ],
)
def test_success_is_told_where_all_tasks_tell_it(options: Any, tells: bool, thresholds: list[float | None]) -> None:
    made = suite(**options)
    assert made.spec.tells_success is tells
    description = json.loads(json.dumps(made.description(), allow_nan=False))
    assert description["solved_at"] == thresholds and description["tasks"] == list(made.tasks)


@pytest.mark.parametrize("steps", [0, 3, 5, 7])
def test_a_saved_state_goes_on_exactly(steps: int) -> None:
    envs, rng = suite().make_envs(1, 3), np.random.default_rng(0)
    for _ in range(steps):
        envs.step(rng.uniform(-1, 1, (2, 3, 1)))
    buffer = io.BytesIO()
    torch.save(envs.state_dict(), buffer)
    buffer.seek(0)
    other = suite().make_envs(9, 3)
    assert np.array_equal(other.load_state_dict(torch.load(buffer, weights_only=True)), envs._observation)
    for _ in range(12):
        action = rng.uniform(-1, 1, (2, 3, 1))
        first, second = vars(envs.step(action)), vars(other.step(action))
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_goes_on_from_the_middle_of_an_episode_bit_for_bit() -> None:
    """The trainer's own states, as a checkpoint holds them, after 16 steps of each copy: Quick's fourth episode."""

    def trainer() -> OffPolicyTrainer:
        parts = Experiment(compose([*GYMNASIUM, f"benchmark.ids=[{','.join(IDS)}]", "training.envs_per_task=3"]))
        return cast("OffPolicyTrainer", parts.trainer.start())

    def play(loop: OffPolicyTrainer, steps: int) -> None:
        while loop.step < steps:
            loop.advance()

    whole = trainer()
    play(whole, 48)
    saved = io.BytesIO()
    torch.save((whole.state_dict(), whole.data_state()), saved)
    play(whole, 120)
    saved.seek(0)
    state, data = torch.load(saved, weights_only=True)
    again = trainer()
    again.load_state_dict(state)
    again.load_data_state(data)
    play(again, 120)
    agents = [cast("Any", loop.agent) for loop in (whole, again)]
    one, two = (torch.cat([p.detach().flatten() for p in agent.actor.parameters()]) for agent in agents)
    assert torch.equal(one, two)
    reports = whole.report(), again.report()
    assert list(reports[0]) == ["return"]
    assert np.array_equal(reports[0]["return"], reports[1]["return"], equal_nan=True)


def test_an_environment_that_does_not_repeat_is_refused() -> None:
    envs = suite().make_envs(1, 1)
    envs.step(np.zeros((2, 1, 1)))
    state = envs.state_dict()
    with pytest.raises(UserError, match="Saved environments"):
        suite().make_envs(1, 2).load_state_dict(state)
    state["observation"] = state["observation"] + 1
    with pytest.raises(UserError, match="Environment Pendulum-v1 should be one whose episodes repeat"):
        envs.load_state_dict(state)


def test_episodes_of_an_evaluation_differ_from_each_other_and_from_training() -> None:
    made = suite()
    starts = [envs.reset()[0] for envs in (made.make_envs(1, 4), made.make_evaluation_envs(1, 4, "goals"))]
    assert len(np.unique(np.concatenate(starts).round(6), axis=0)) == 8
    assert np.array_equal(made.make_evaluation_envs(1, 4, "upstream").reset()[0], starts[1])


def test_a_film_shows_environments_of_different_sizes_to_the_end_of_each(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    suite(ids=[IDS[1], "mtrl-test/Wide-v0"]).film(constant(0.5), tmp_path / "a.mp4", 1)
    assert frames_in(tmp_path / "a.mp4") == 5 + 30, "the first observation and the four after it, which stays a second"


def strict(path: Path) -> Any:
    """A JSON file without NaN and infinities, which are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_results_without_success_are_returns(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table, the result, the metrics and the picture of a run from a module that registers its environment."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = "import gymnasium\ngymnasium.register('mine/P-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    Path("my_envs.py").write_text(module)
    options = [*GYMNASIUM, "benchmark.ids=[mine/P-v0]", "benchmark.horizon=10"]
    assert cli.main(["train", "--import", "my_envs", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("task "))
    head, row = lines[place], lines[place + 2]
    folder = run_folder()
    result = strict(folder / "result.json")
    assert head.split() == ["task", "return", "length"] and row.split()[0] == "mine/P-v0" and "%" not in row
    assert result["headline"] == "return" and "mean_success" not in result
    assert result["mean_return"] == pytest.approx(np.mean(result["tasks"]["mine/P-v0"]["returns"]))
    assert "success" not in (folder / "metrics.jsonl").read_text()
    assert cli.main(["plot", str(folder), str(folder), "--output", "both.png"]) == 0
    assert (folder / "learning_curves.png").exists() and Path("both.png").exists()
    del sys.modules["my_envs"], gymnasium.registry["mine/P-v0"]
    assert cli.main(["evaluate", str(folder)]) == 2, "the run's record does not import the module by itself"
    assert "--import my_envs" in capsys.readouterr().err and "mine/P-v0" not in gymnasium.registry
