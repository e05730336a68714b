"""Episodes of pushing, against Meta-World's own environment and policy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies.sawyer_push_v3_policy import SawyerPushV3Policy

from mtrl.core.errors import UserError
from mtrl.core.subset import SomeTasks
from mtrl.core.types import Transitions
from mtrl.envs.pushing import Config, PushingSuite
from mtrl.envs.pushing.envs import RADIUS, PushEnvs, puck_of
from mtrl.envs.pushing.goals import TASK, as_tasks, check_goals, draw_goals

GOALS = draw_goals(0, 200)
SAMPLE = GOALS[::8]
CORNERS = check_goals([[-0.2, 0.7, -0.2, 0.85], [0.2, 0.7, 0.2, 0.85], [-0.2, 0.6, 0.2, 0.95], [0.2, 0.6, -0.2, 0.95]])


def make(goals: Any = GOALS, goals_at_once: int = 3, paths: int = 2, **options: Any) -> PushEnvs:
    return PushEnvs(goals, GOALS, 5, goals_at_once, paths, threads=1, **options)


def scripted(envs: PushEnvs) -> np.ndarray:
    """Meta-World's own policy for push-v3."""
    policy, actions = SawyerPushV3Policy(), np.zeros((*envs.raw.shape[:2], 4), np.float32)
    for t, n in np.ndindex(*envs.raw.shape[:2]):
        frame = np.zeros(39)
        frame[:11], frame[-3:] = envs.raw[t, n, :11], [*envs.place[t, 0], 0.02]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            actions[t, n] = np.clip(policy.get_action(frame), -1, 1)
    return actions


def solved(goals: np.ndarray) -> np.ndarray:
    envs = make(goals, len(goals), 1, fixed=True)
    envs.reset()
    found = np.zeros(len(goals), bool)
    for _ in range(150):
        found |= envs.step(scripted(envs)).success[:, 0]
    assert not envs.faults.any()
    return found


def test_the_scripted_policy_solves_the_goals() -> None:
    """The task is fair: pucks and places can be reached, at the ranges' corners too."""
    assert solved(np.concatenate([SAMPLE, CORNERS])).mean() >= 0.95


@pytest.mark.slow
def test_the_scripted_policy_solves_all_goals() -> None:
    assert solved(GOALS).mean() >= 0.95


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_frames_and_rewards_are_the_packages_own(version: str) -> None:
    goal = GOALS[:1]
    envs = make(goal, 1, 1, fixed=True, reward=version)
    theirs: Any = ALL_V3_ENVIRONMENTS[TASK](reward_function_version=version)
    theirs.set_task(as_tasks(goal)[0])
    frame, _ = theirs.reset()
    envs.reset()
    for _ in range(60):
        np.testing.assert_allclose(envs.raw[0, 0], frame[np.r_[0:11, 18:29]], atol=1e-12)
        action = scripted(envs)
        frame, reward, *_ = theirs.step(action[0, 0])
        step = envs.step(action)
        np.testing.assert_allclose(step.reward[0, 0], reward, rtol=1e-6, atol=1e-9)
        assert step.success[0, 0] == (np.linalg.norm(frame[4:6] - goal[0, 2:]) <= RADIUS)


def test_pucks_start_on_the_table_where_the_goals_say() -> None:
    goals = np.concatenate([SAMPLE, CORNERS])
    envs = make(goals, len(goals), 1, fixed=True)
    envs.reset()
    np.testing.assert_allclose(envs.raw[:, 0, 4:6], goals[:, :2], atol=0.005)
    assert (np.abs(envs.raw[:, 0, 6] - envs.raw[0, 0, 6]) < 1e-3).all()
    for _ in range(20):
        envs.step(np.zeros((len(goals), 1, 4), np.float32))
    np.testing.assert_allclose(envs.raw[:, 0, 4:6], goals[:, :2], atol=0.005)


def test_a_rollout_has_its_goals_for_all_its_paths_and_ends_as_one() -> None:
    envs = make(horizon=7)
    envs.reset()
    seen = []
    for number in range(1, 22):
        goals, place = envs.present, envs.place
        step = envs.step(np.zeros((3, 2, 4), np.float32))
        assert step.truncated.all() == step.truncated.any() == (number % 7 == 0)
        assert not step.terminated.any()
        np.testing.assert_allclose(step.measures["distance"], np.linalg.norm(envs.next_raw[..., 4:6] - place, axis=-1))
        np.testing.assert_allclose(envs.next_raw[..., 4:6], GOALS[goals.task][:, None, :2].repeat(2, 1), atol=0.005)
        assert len(set(goals.task.tolist())) == 3
        seen.append(tuple(goals.task.tolist()))
    assert [len(set(seen[i : i + 7])) for i in (0, 7, 14)] == [1, 1, 1]
    assert len(set(seen)) == 3


def test_observations_hold_no_goal() -> None:
    """The same start with two places looks the same."""
    goals = np.array([[0.0, 0.65, -0.2, 0.85], [0.0, 0.65, 0.2, 0.95]])
    envs = make(goals, 2, 1, fixed=True)
    observation = envs.reset()
    np.testing.assert_array_equal(observation[0], observation[1])
    assert not torch.equal(envs.present.code[0], envs.present.code[1])
    np.testing.assert_allclose(puck_of(torch.from_numpy(observation))[:, 0], goals[:, :2], atol=0.005)


def test_a_new_goal_has_its_own_code_and_the_nearest_ones_index() -> None:
    suite = PushingSuite(Config())
    goals = suite.subset_of(suite.held_out)
    assert (goals.code - suite.spec.goals[goals.task]).abs().max() < 1
    assert not torch.isin(goals.code, suite.spec.goals).any()
    with pytest.raises(UserError, match=r"y of its place in 0\.85\.\.0\.95"):
        suite.make_goal_envs([[0.0, 0.65, 0.0, 1.0]])


def test_an_episode_goes_on_exactly_from_a_saved_state() -> None:
    first, again = make(horizon=9), make(horizon=9)
    rng = np.random.default_rng(0)
    first.reset()
    seen = [first.step(rng.uniform(-1, 1, (3, 2, 4))).observation.copy() for _ in range(12)]
    observation = again.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(observation, seen[-1])
    for _ in range(10):
        action = rng.uniform(-1, 1, (3, 2, 4))
        one, other = first.step(action), again.step(action)
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.truncated, other.truncated)
        assert torch.equal(first.present.task, again.present.task)
    with pytest.raises(UserError, match="Saved environments"):
        make(goals_at_once=4).load_state_dict(first.state_dict())


def test_a_copy_that_fails_stays_in_step() -> None:
    envs = make(horizon=6)
    envs.reset()
    for number in range(1, 13):
        if number == 3:
            envs._engine.physics[0].datas[1].qpos[:] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = envs.step(np.zeros((3, 2, 4), np.float32))
        expected = np.full((3, 2), number % 6 == 0)
        expected[0, 1] |= number == 3
        np.testing.assert_array_equal(step.truncated, expected)
    assert envs.faults.sum() == envs.faults[0, 1] == 1


def test_the_dense_reward_pays_for_every_centimetre() -> None:
    envs = make(SAMPLE, len(SAMPLE), 1, fixed=True)
    envs.reset()
    start = envs.raw[:, 0, 4:6] - SAMPLE[:, 2:]
    rewards, closer = [], []
    for _ in range(110):
        rewards.append(envs.step(scripted(envs)).reward[:, 0].copy())
        closer.append(1 - envs.distance[:, 0] / np.linalg.norm(start, axis=-1))
    come, paid = np.array(closer), np.array(rewards)
    assert ((paid - 0.8 * come >= -0.01) & (paid - 0.8 * come <= 0.21)).all()
    assert paid[-1].mean() > 0.9
    assert paid[0].mean() < 0.1


@pytest.mark.parametrize("kind", ["distance", "sparse"])
def test_hindsight_gives_the_reward_of_the_place_reached(kind: str) -> None:
    """Relabelled transitions are those that the environment would give with that place."""
    suite = PushingSuite(Config(reward=kind, threads=1))
    place = np.array([0.05, 0.9])
    goals = np.array([[0.0, 0.65, -0.1, 0.87], [0.0, 0.65, *place]])
    envs = suite.make_goal_envs(goals)
    before = torch.tensor(envs.reset())
    actions = np.zeros((2, 1, 4), np.float32)
    present, batches = envs.present, []
    for _ in range(80):
        actions[:] = scripted(envs)[1]
        step = envs.step(actions)
        after, reward = torch.tensor(step.next_observation), torch.tensor(step.reward)
        batches.append(Transitions(before, torch.tensor(actions), reward, after, reward * 0, present))
        before = torch.tensor(step.observation)
    final = batches[-1].next_observation[:, 0]
    wanted = suite.goals[:1].copy()
    wanted[0] = [*goals[0, :2], *puck_of(final)[0].numpy()]
    for batch in batches:
        again = suite.relabeller()(batch, final)
        assert isinstance(again.subset, SomeTasks)
        apart = (puck_of(batch.next_observation)[0, 0] - puck_of(final)[0]).norm().item()
        expected = -apart if kind == "distance" else (0.0 if apart <= RADIUS else -1.0)
        np.testing.assert_allclose(again.reward[0, 0].item(), expected, atol=1e-5)
        np.testing.assert_allclose(again.subset.code[0, :2], present.code[0, :2], atol=1e-6)
    still = suite.relabeller()(batches[0], batches[0].observation[:, 0])
    assert isinstance(still.subset, SomeTasks)
    torch.testing.assert_close(still.subset.code, present.code)
    torch.testing.assert_close(still.reward, batches[0].reward)


def test_hindsight_needs_a_reward_of_the_goal_alone() -> None:
    with pytest.raises(UserError, match="distance or sparse"):
        PushingSuite(Config()).relabeller()


@pytest.mark.parametrize(
    "options", [{"num_goals": 0}, {"goals_per_rollout": 201}, {"reward": "v3"}, {"horizon": 0}, {"held_out_goals": 0}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"benchmark.{next(iter(options))}"):
        Config(**options)
