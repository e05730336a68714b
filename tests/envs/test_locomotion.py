"""Robots with hidden goals: rewards follow from the robots' positions, and observations do not show the goal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtrl.envs import SUITES
from mtrl.envs.locomotion import HiddenGoal


@pytest.mark.parametrize("kind", ["goal_velocity", "goal_direction"])
def test_rewards_follow_from_the_robots_positions(kind: str) -> None:
    """They are computed from MuJoCo's state before and after a step, with the coefficients of the published code."""
    suite = SUITES.build(SUITES.config_class(kind)(num_tasks=2, unseen_tasks=2, horizon=30))
    env = suite.config.made("goal-1")
    assert isinstance(env, HiddenGoal)
    goal, data, rng = suite.config.goal_of("goal-1"), env.unwrapped.data, np.random.default_rng(0)  # type: ignore[attr-defined]
    env.reset(seed=0)
    for _ in range(10):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)  # type: ignore[arg-type]
        torso = (lambda: data.xpos[1].copy()) if kind == "goal_direction" else (lambda: data.qpos[:1].copy())
        before = torso()
        reward = env.step(action)[1]
        speed = (torso() - before) / 0.05
        if kind == "goal_velocity":
            wanted = -abs(speed[0] - goal) - 0.05 * (action.astype(float) ** 2).sum()
        else:
            contact = 5e-4 * (np.clip(data.cfrc_ext, -1, 1) ** 2).sum()
            wanted = speed[0] * math.cos(goal) + speed[1] * math.sin(goal) - 0.5 * (action.astype(float) ** 2).sum()
            wanted += 1 - contact
        assert reward == pytest.approx(wanted, abs=1e-6)


def test_tasks_differ_by_reward_alone_and_episodes_end_at_the_horizon() -> None:
    suite = SUITES.build(SUITES.config_class("goal_velocity")(num_tasks=2, unseen_tasks=3, horizon=5))
    assert suite.unseen.tasks == ("unseen-0", "unseen-1", "unseen-2") and not suite.spec.tells_success
    assert len(set(suite.unseen.description()["goals"].values())) == 3
    envs = [suite.config.make(task) for task in suite.tasks]
    states = [env.reset(seed=3)[0] for env in envs]
    for number in range(5):
        assert np.array_equal(*states)
        steps = [env.step(np.full(6, 0.5, np.float32)) for env in envs]
        states = [step[0] for step in steps]
        assert steps[0][1] != steps[1][1] and steps[0][3] == (number == 4)
