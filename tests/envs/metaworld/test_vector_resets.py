"""Resets, seeds and copies of the vector environment."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from mtrl.core.errors import UserError
from tests.support.metaworld_vector import custom


def test_without_a_seed_the_goals_go_on() -> None:
    envs = custom(num_envs=12)
    found = [envs.reset(seed=seed)[0] for seed in (1, None, None, 1, None)]
    goals = [rows[:, 36:39] for rows in found]
    assert np.array_equal(found[0], found[3]) and np.array_equal(found[1], found[4])
    assert not np.array_equal(goals[0], goals[1]) and not np.array_equal(goals[1], goals[2])
    envs.close()


def test_a_mask_restarts_those_and_no_others() -> None:
    envs = custom(num_envs=6)
    envs.action_space.seed(0)
    envs.reset(seed=1)
    before = [envs.step(envs.action_space.sample())[0] for _ in range(3)][-1]
    mask = np.array([False, True, False, False, False, True])
    after, _ = envs.reset(options={"reset_mask": mask})
    assert np.array_equal((before != after).any(1), mask)
    for wrong in (mask[:3], mask.astype(int), np.zeros(6, bool)):
        with pytest.raises(UserError, match="`reset_mask` should be 6 truth values"):
            envs.reset(options={"reset_mask": wrong})
    envs.close()


def test_no_seed_for_any_copy_is_no_seed() -> None:
    """Also in the first reset, and for the copies without one where others have one."""
    one, other, third = (custom(num_envs=6) for _ in range(3))
    first, _ = one.reset()
    assert np.array_equal(first, other.reset(seed=[None] * 6)[0])
    mixed, _ = third.reset(seed=[7, *[None] * 5])
    assert np.array_equal(first[1:], mixed[1:]) and not np.array_equal(first[0], mixed[0])
    for envs in (one, other, third):
        envs.close()


def test_a_shallow_copy_shares_no_random_numbers() -> None:
    """And Meta-World's switches take their argument by its name."""
    envs = custom(num_envs=3)
    envs.reset(seed=1)
    twin = copy.copy(envs)
    assert twin.action_space is not envs.action_space
    assert np.array_equal(envs.action_space.sample(), twin.action_space.sample())
    envs.call("toggle_terminate_on_success", on=True)
    assert envs.get_attr("terminate_on_success") == (True,) * 3
    envs.close()
    twin.close()


def test_each_copy_may_have_a_seed_of_its_own() -> None:
    envs = custom(num_envs=6)
    first, _ = envs.reset(seed=[1, 2, 3, 4, 5, 6])
    changed, _ = envs.reset(seed=[1, 9, 3, 4, 5, None])
    same = (first == changed).all(1)
    assert same[[0, 2, 3, 4]].all()
    again, _ = envs.reset(seed=np.arange(1, 7))
    assert np.array_equal(first, again)
    other = custom(num_envs=6)
    assert np.array_equal(other.reset(seed=np.arange(1, 7))[0], first)
    other.close()
    with pytest.raises(UserError, match="a list of 6"):
        envs.reset(seed=[1, 2])
    envs.close()


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_episodes_restart_when_the_mode_says(mode: str) -> None:
    envs = custom(max_episode_steps=2, autoreset_mode=mode)
    assert envs.metadata["autoreset_mode"] == AutoresetMode(mode)
    first, _ = envs.reset(seed=0)
    envs.step(np.ones((3, 4), np.float32))
    ended, _, _, truncated, info = envs.step(np.ones((3, 4), np.float32))
    assert truncated.all() and "final_obs" not in info and not np.array_equal(ended, first)
    if mode == "NextStep":
        begun, reward, terminated, truncated, info = envs.step(np.ones((3, 4), np.float32))
        assert not (reward.any() or terminated.any() or truncated.any())
        assert not any(values.any() for values in info.values()), "nothing is known of the step that was not taken"
        assert envs.step(np.ones((3, 4), np.float32))[4]["_unscaled_reward"].all()
    else:
        begun, _ = envs.reset(options={"reset_mask": np.ones(3, bool)})
    assert np.array_equal(begun[:, :3], first[:, :3]), "the hand is where episodes begin"
    envs.close()


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda envs: pickle.loads(pickle.dumps(envs)),
    "cloudpickle": lambda envs: pickle.loads(cloudpickle.dumps(envs)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_go_on_bit_for_bit(how: str) -> None:
    envs = custom(max_episode_steps=5, seed=None)
    envs.set_attr("sample_tasks_on_reset", False)
    assert COPIES[how](envs).get_attr("sample_tasks_on_reset") == (False,) * 3, "also before the first reset"
    envs.reset(seed=2)
    for _ in range(3):
        envs.step(envs.action_space.sample())
    twin = COPIES[how](envs)
    assert twin.spec == envs.spec
    for _ in range(6):
        actions = [one.action_space.sample() for one in (envs, twin)]
        assert np.array_equal(*actions)
        results = [one.step(actions[0]) for one in (envs, twin)]
        assert all(np.array_equal(a, b) for a, b in zip(*(result[:4] for result in results), strict=True))
    assert np.array_equal(envs.reset()[0], twin.reset()[0])
    envs.close()
    twin.close()
