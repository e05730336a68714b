"""The adapter gives what Gymnasium's environments give, and goes on exactly from a saved state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.envs.gymnasium import Config, GymnasiumSuite

IDS = ["Pendulum-v1", "mtrl-test/Quick-v0"]


class Quick(gymnasium.Env[Any, Any]):
    """Three numbers, one action; an episode ends by itself after 5 steps, or where the action was large."""

    observation_space = gymnasium.spaces.Dict(
        {"a": gymnasium.spaces.Box(-1, 1, (2,)), "b": gymnasium.spaces.Box(-1, 1, (1,))}
    )
    action_space = gymnasium.spaces.Box(-3, 5, (1,))

    def _observation(self) -> dict[str, Any]:
        return {"a": self.np_random.uniform(-1, 1, 2).astype(np.float32), "b": np.full(1, self.count / 5, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        ended = self.count == 5
        return self._observation(), float(action[0]), ended, False, {"is_success": ended and action[0] > 0}


if IDS[1] not in gymnasium.registry:
    gymnasium.register(IDS[1], Quick, max_episode_steps=200)


def suite(**options: Any) -> GymnasiumSuite:
    return GymnasiumSuite(Config(ids=IDS, **options))


def test_a_task_is_its_environment() -> None:
    """Observations, rewards and ends are the environment's own, for actions in its own units."""
    envs = suite().make_envs(3, 2)
    observation, rng = envs.reset().copy(), np.random.default_rng(0)
    seed = int(np.random.SeedSequence((3, 0, 0, 1)).generate_state(1)[0])
    reference = gymnasium.make(IDS[0])
    assert np.allclose(observation[0, 1], reference.reset(seed=seed)[0])
    for _ in range(200):
        action = rng.uniform(-1, 1, (2, 2, 1)).astype(np.float32)
        step = envs.step(action)
        found, reward, terminated, truncated, _ = reference.step(2 * action[0, 1])  # Pendulum's torque is in [-2, 2]
        assert np.allclose(step.next_observation[0, 1], found, atol=1e-6)
        assert step.reward[0, 1] == pytest.approx(float(reward), abs=1e-6)
        assert (step.terminated[0, 1], step.truncated[0, 1]) == (terminated, truncated)
    assert step.truncated[0].all() and not np.allclose(step.observation[0], step.next_observation[0])


def test_actions_are_scaled_and_success_is_what_the_environment_says() -> None:
    envs = suite().make_envs(0, 1)
    envs.reset()
    rewards, solved, ended = [], [], []
    for value in (-1.0, 0.0, 1.0, 7.0, 0.5):
        step = envs.step(np.full((2, 1, 1), value, np.float32))
        rewards.append(step.reward[1, 0])
        solved.append(bool(step.success[1, 0]))
        ended.append(bool(step.terminated[1, 0]))
    assert rewards == [-3.0, 1.0, 5.0, 5.0, 3.0]
    assert solved == ended == [False] * 4 + [True]


def test_a_return_at_the_threshold_solves_an_episode() -> None:
    for threshold, expectation in ((-1e9, True), (0.0, False)):
        envs = GymnasiumSuite(Config(ids=IDS[:1], solved_at=threshold, horizon=4)).make_envs(0, 1)
        envs.reset()
        found = [envs.step(np.zeros((1, 1, 1), np.float32)).success.item() for _ in range(4)]
        assert found == [False, False, False, expectation]


@pytest.mark.parametrize("steps", [0, 3, 7])
def test_a_saved_state_goes_on_exactly(steps: int) -> None:
    envs, rng = suite().make_envs(1, 3), np.random.default_rng(0)
    envs.reset()
    for _ in range(steps):
        envs.step(rng.uniform(-1, 1, (2, 3, 1)))
    state = envs.state_dict()
    other = suite().make_envs(9, 3)
    assert np.array_equal(other.load_state_dict(state), envs._observation)
    for _ in range(12):
        action = rng.uniform(-1, 1, (2, 3, 1))
        first, second = envs.step(action), other.step(action)
        for name in ("observation", "next_observation", "reward", "terminated", "truncated", "success"):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_an_environment_that_does_not_repeat_is_refused() -> None:
    envs = suite().make_envs(1, 1)
    envs.reset()
    envs.step(np.zeros((2, 1, 1)))
    state = envs.state_dict()
    state["observation"] = state["observation"] + 1
    with pytest.raises(UserError, match="Environment Pendulum-v1 should be the same again from the same seed"):
        envs.load_state_dict(state)


def test_episodes_of_an_evaluation_differ_from_each_other_and_from_training() -> None:
    made = suite()
    starts = [envs.reset()[0] for envs in (made.make_envs(1, 4), made.make_evaluation_envs(1, 4, "goals"))]
    assert len(np.unique(np.concatenate(starts).round(6), axis=0)) == 8
    again = made.make_evaluation_envs(1, 4, "upstream").reset()[0]
    assert np.array_equal(again, starts[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("benchmark.ids=[NoSuch-v0]", "`benchmark.ids` should be ids that Gymnasium knows"),
        ("benchmark.ids=[CartPole-v1]", "Actions of CartPole-v1 should be in a box with bounds"),
        ("benchmark.ids=[Pendulum-v1,MountainCarContinuous-v0]", "of sizes .3, 1. .* as Pendulum-v1. Found .2, 1."),
        ("benchmark.ids=[]", "`benchmark.ids` should be a list of ids"),
        ("tasks=[Pendulum-v2]", "`benchmark.tasks` should name some of Pendulum-v1"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["train", "benchmark=gymnasium", f"runs={tmp_path}", options]) == 2
    found = capsys.readouterr().err
    assert re.search(message, found) and found.count("\n") == 1
    assert not list(tmp_path.iterdir())
