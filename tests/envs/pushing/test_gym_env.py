"""Pushing as Gymnasium sees it."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mtrl.envs.pushing  # noqa: F401
from mtrl.core.errors import UserError
from mtrl.envs.offscreen import offscreen_backend
from mtrl.envs.pushing.gym_env import GoalPushEnv
from mtrl.monitoring.video import RenderingUnavailable


@pytest.mark.parametrize("name", ["mtrl/GoalPush-v0", "mtrl/GoalPushDict-v0"])
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    env = gymnasium.make(name, horizon=5).unwrapped
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|minimum value|maximum value|render).*")
        check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("reward", ["distance", "sparse"])
def test_the_dictionary_form_can_be_relabelled(reward: str) -> None:
    env: Any = gymnasium.make("mtrl/GoalPushDict-v0", reward=reward, horizon=20)
    observation, _ = env.reset(seed=1, options={"goal": [0.1, 0.65, -0.1, 0.9]})
    np.testing.assert_allclose(observation["desired_goal"], [-0.1, 0.9])
    np.testing.assert_allclose(observation["achieved_goal"], [0.1, 0.65], atol=0.005)
    states = []
    for number in range(1, 21):
        observation, found, terminated, truncated, info = env.step(env.action_space.sample())
        again = env.unwrapped.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
        assert found == again
        np.testing.assert_allclose(info["distance"], np.linalg.norm(observation["achieved_goal"] - [-0.1, 0.9]))
        assert (terminated, truncated) == (False, number == 20)
        states.append(observation)
    achieved, desired = (np.stack([s[k] for s in states]) for k in ("achieved_goal", "desired_goal"))
    assert env.unwrapped.compute_reward(achieved, desired, {}).shape == (20,)
    assert (env.unwrapped.compute_reward(achieved, achieved, {}) == 0).all()


def test_the_plain_form_ends_in_the_goal() -> None:
    env = gymnasium.make("mtrl/GoalPush-v0")
    goal = [0.1, 0.65, -0.1, 0.9]
    observation, _ = env.reset(options={"goal": goal})
    np.testing.assert_array_equal(observation[22:], goal)
    first, _ = env.reset(seed=4)
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(first, again)
    other, _ = env.reset()
    assert not np.array_equal(first[22:], other[22:])


@pytest.mark.parametrize("goal", [[0.1, 0.65, -0.1, 0.8], [0.1, 0.65], 3.0])
def test_bad_goals_are_refused(goal: Any) -> None:
    env = gymnasium.make("mtrl/GoalPush-v0")
    with pytest.raises(UserError, match=r"y of the puck in .*y of its place in"):
        env.reset(options={"goal": goal})


def test_a_step_without_a_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("mtrl/GoalPush-v0").unwrapped.step(np.zeros(4))
    env: Any = gymnasium.make("mtrl/GoalPush-v0").unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.compute_truncated(np.zeros(2), np.zeros(2), {})


def test_a_failure_of_the_physics_ends_the_episode_where_it_failed() -> None:
    env: Any = gymnasium.make("mtrl/GoalPush-v0")
    first, _ = env.reset(seed=1)
    before = [env.step(np.ones(4, np.float32))[0] for _ in range(5)][-1]
    after, _, terminated, truncated, _ = env.step(np.full(4, np.nan, np.float32))
    assert truncated and not terminated
    assert np.linalg.norm(after[:3] - before[:3]) < 0.01 < np.linalg.norm(after[:3] - first[:3])


def test_pictures_show_the_place_of_the_episodes_goal() -> None:
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    env: Any = gymnasium.make("mtrl/GoalPush-v0", render_mode="rgb_array")
    shown = []
    for place in ([-0.1, 0.93], [0.15, 0.86]):
        env.reset(seed=1, options={"goal": [0.1, 0.65, *place]})
        picture = env.render().astype(int)
        red, green, blue = np.moveaxis(picture, -1, 0)
        marked = (green > red + 40) & (green > blue + 20)
        assert picture.shape == (480, 480, 3) and 100 < marked.sum() < 20_000
        shown.append(np.argwhere(marked).mean(0))
    assert np.linalg.norm(shown[0] - shown[1]) > 20, "the mark moves with the goal"
    first = env.render()
    for _ in range(30):
        env.step(np.ones(4, np.float32))
    assert (env.render() != first).any()
    env.close()
    assert gymnasium.make("mtrl/GoalPush-v0").unwrapped.render() is None
    with pytest.raises(UserError, match="`render_mode` should be one of rgb_array"):
        GoalPushEnv(render_mode="ansi")
