"""The point family: hidden goals, and tasks that differ only in their rewards."""

from __future__ import annotations

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.envs import point
from mtrl.envs.point import PointSuite


def suite(**options: object) -> PointSuite:
    return PointSuite(point.Config(**{"num_tasks": 5, "unseen_tasks": 3, **options}))  # type: ignore[arg-type]


def test_tasks_differ_by_reward_alone() -> None:
    envs, rng = suite().make_envs(1, 4), np.random.default_rng(0)
    observation = envs.reset()
    for _ in range(45):
        assert (observation == observation[:1]).all()
        step = envs.step(np.broadcast_to(rng.uniform(-1, 1, (4, 2)), (5, 4, 2)))
        assert (step.next_observation == step.next_observation[:1]).all() and len(np.unique(step.reward[:, 0])) == 5
        observation = step.observation


def test_the_reward_is_minus_the_distance_to_a_goal_on_the_circle() -> None:
    made = suite()
    envs = made.make_envs(1, 1)
    goals = np.array([[np.cos(a), np.sin(a)] for a in (2 * np.pi * made.config.goal(task) for task in made.tasks)])
    observation, distance = envs.reset(), np.zeros(5)
    for number in range(1, 21):
        step = envs.step(5 * (goals[:, None] - observation))
        distance = np.linalg.norm(step.next_observation - goals[:, None], axis=-1)
        np.testing.assert_allclose(step.reward, -distance)
        assert step.truncated.all() == (number == 20) and not step.terminated.any()
        observation = step.observation
    assert distance.max() < 1e-9 and np.abs(observation).max() <= point.START


def test_unseen_goals_differ_from_those_of_training_and_are_spread_over_the_circle() -> None:
    made = suite()
    seen, unseen = made.tasks, made.unseen.tasks
    assert seen == tuple(f"goal-{t}" for t in range(5)) and unseen == ("unseen-0", "unseen-1", "unseen-2")
    goals = [made.config.goal(task) for task in (*seen, *unseen)]
    assert len(set(goals)) == 8 and [int(g * 5) for g in goals[:5]] == list(range(5))
    assert [int(g * 3) for g in goals[5:]] == [0, 1, 2]
    part = PointSuite(made.config.restricted(["unseen-1", "goal-3"]))
    assert [part.config.goal(t) for t in part.tasks] == [goals[6], goals[3]] and part.unseen.tasks == unseen
    assert suite(goal_seed=1).config.goal("goal-3") != goals[3]
    assert suite(unseen_tasks=2).description() != made.description()
    assert made.description()["unseen_goals"] == made.unseen.description()["goals"]
    with pytest.raises(UserError, match=r"`benchmark\.goal_seed` should be 0 or more"):
        suite(goal_seed=-1)
    with pytest.raises(UserError, match=r"`--episodes or training\.final_episodes` should be a positive integer"):
        made.make_evaluation_envs(0, 0, "goals")
    with pytest.raises(UserError, match=r"`benchmark\.tasks`"):
        made.config.restricted(["unseen-3"])


def test_a_saved_state_continues_exactly() -> None:
    envs, other, rng = suite().make_envs(1, 3), suite().make_envs(2, 3), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (50, 5, 3, 2))
    for action in actions[:27]:
        envs.step(action)
    saved = envs.state_dict()
    assert np.array_equal(other.load_state_dict(saved), envs.load_state_dict(saved))
    for action in actions[27:]:
        assert np.array_equal(envs.step(action).observation, other.step(action).observation)
    with pytest.raises(UserError, match="Saved environments"):
        suite().make_envs(1, 2).load_state_dict(saved)


def test_a_part_of_the_copies_behaves_as_among_all() -> None:
    whole, part = suite().make_envs(3, 6), suite().make_envs(3, 6, range(2, 4))
    assert np.array_equal(whole.reset()[:, 2:4], part.reset())
    for _ in range(21):
        assert np.array_equal(
            whole.step(np.ones((5, 6, 2))).observation[:, 2:4], part.step(np.ones((5, 2, 2))).observation
        )
