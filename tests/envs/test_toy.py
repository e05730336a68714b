"""The toy suite: conflicting, solvable, not by chance, and resumable."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs.toy import SPEED, ToyEnvs, ToySuite
from mtrl.envs.toy import Config as ToyConfig
from mtrl.training.evaluation import evaluate


def analytic(suite: ToySuite):
    """Turn the wanted move back by the task's angle."""
    angle = 2 * np.pi * np.arange(len(suite.tasks)) / len(suite.tasks)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)

    def policy(observation: FloatArray) -> FloatArray:
        action = np.einsum("tij,tnj->tni", turn, observation[..., 4:]) / SPEED
        return action / np.maximum(np.abs(action).max(-1, keepdims=True), 1)

    return policy


def uniform(suite: ToySuite):
    rng = np.random.default_rng(0)
    return lambda observation: rng.uniform(-1, 1, (*observation.shape[:2], suite.spec.action_size))


@pytest.mark.parametrize("num_tasks", [1, 4, 7])
def test_the_obvious_policy_solves_every_task_and_chance_does_not(num_tasks: int) -> None:
    suite = ToySuite(ToyConfig(num_tasks=num_tasks))
    envs = suite.make_evaluation_envs(3, 50, "goals")
    assert (evaluate(analytic(suite), envs, 50).success_rate == 1).all()
    assert (evaluate(uniform(suite), envs, 50).success_rate < 0.2).all()


def test_the_policy_of_the_opposite_task_fails() -> None:
    suite = ToySuite(ToyConfig(num_tasks=2))
    envs = suite.make_evaluation_envs(3, 50, "upstream")
    good = analytic(suite)
    swapped = evaluate(lambda observation: good(observation)[::-1], envs, 50)
    assert (swapped.success_rate < 0.2).all()


def copied(result: StepResult) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in vars(result).items()}


def run(envs: ToyEnvs, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [copied(envs.step(action)) for action in actions]


@pytest.mark.parametrize("shuffled", [False, True])
def test_rewards_lie_within_0_and_1_and_tell_the_distance_unless_shuffled(shuffled: bool) -> None:
    envs = ToySuite(ToyConfig(shuffled_rewards=shuffled)).make_envs(0, 16)
    steps = run(envs, np.random.default_rng(1).uniform(-1, 1, (200, 4, 16, 2)))
    reward = np.stack([step["reward"] for step in steps])
    distance = np.linalg.norm(np.stack([step["next_observation"] for step in steps])[..., 4:], axis=-1)
    assert reward.min() >= 0 and reward.max() <= 1
    correlation = np.corrcoef(reward.ravel(), distance.ravel())[0, 1]
    # The scale of a random point's distance still depends a little on where the goal is.
    assert abs(correlation) < 0.35 if shuffled else correlation < -0.99


def test_the_true_successor_is_given_where_an_episode_ends() -> None:
    envs = ToySuite(ToyConfig(horizon=5)).make_envs(0, 3)
    for k, step in enumerate(run(envs, np.random.default_rng(1).uniform(-1, 1, (11, 4, 3, 2)))):
        ended = k % 5 == 4
        assert (step["truncated"] == ended).all() and not step["terminated"].any()
        same = (step["observation"] == step["next_observation"]).all(-1)
        assert (same == (not ended)).all()


def test_a_saved_state_goes_on_exactly() -> None:
    suite = ToySuite(ToyConfig(horizon=7, shuffled_rewards=True))
    actions = np.random.default_rng(1).uniform(-1, 1, (40, 4, 3, 2))
    envs, other = suite.make_envs(0, 3), suite.make_envs(1, 3)
    run(envs, actions[:10])
    buffer = io.BytesIO()
    torch.save(envs.state_dict(), buffer)
    buffer.seek(0)
    observation = copy.deepcopy(run(envs, actions[10:]))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for one, two in zip(observation, run(other, actions[10:]), strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_the_seed_decides() -> None:
    suite = ToySuite(ToyConfig())
    first = suite.make_envs(0, 3).reset().copy()
    assert np.array_equal(first, suite.make_envs(0, 3).reset())
    assert not np.array_equal(first, suite.make_envs(1, 3).reset())
    assert np.array_equal(first, suite.make_envs(1, 3).reset(seed=0))


def test_bad_input_is_refused_in_one_line() -> None:
    wrong: list[dict[str, Any]] = [{"num_tasks": 0}, {"num_tasks": 361}, {"horizon": 0}, {"kind": "toys"}]
    for options in wrong:
        with pytest.raises(UserError, match=r"^Option .* should be .* Found .*\.$"):
            ToyConfig(**options)
    suite = ToySuite(ToyConfig())
    with pytest.raises(UserError, match="goals, upstream"):
        suite.make_evaluation_envs(0, 5, "random")
    with pytest.raises(UserError, match="Saved environments"):
        suite.make_envs(0, 2).load_state_dict(suite.make_envs(0, 3).state_dict())


def test_the_description_is_plain() -> None:
    suite = ToySuite(ToyConfig())
    assert json.loads(json.dumps(suite.description()))["tasks"] == list(suite.tasks)
