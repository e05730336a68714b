"""stable-baselines3 takes the vector environment, sees what it should, and learns on it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import mtrl.envs.metaworld  # noqa: F401
from mtrl.core.errors import UserError

pytest.importorskip("stable_baselines3", reason="the extra `aux` is not installed")

ROOT = Path(__file__).resolve().parents[3]


def make(**options: Any) -> Any:
    return gymnasium.make_vec("mtrl/MT1-v3", task="reach-v3", num_envs=4, threads=1, **options)


def adapted(**options: Any) -> Any:
    from mtrl.envs.metaworld.sb3 import SB3VecEnv

    return SB3VecEnv(make(**options))


def test_it_gives_what_the_vector_environment_gives() -> None:
    envs, plain = adapted(max_episode_steps=3), make(max_episode_steps=3)
    envs.seed(7)
    observation = envs.reset()
    expected, _ = plain.reset(seed=[7, 8, 9, 10])
    assert observation.dtype == np.float32 and np.array_equal(observation, expected.astype(np.float32))
    total = np.zeros(4)
    for step in range(6):
        actions = plain.action_space.sample()
        observation, reward, done, infos = envs.step(actions)
        expected, rewards, _, truncated, info = plain.step(actions)
        total += rewards
        assert np.array_equal(observation, expected.astype(np.float32))
        assert np.array_equal(reward, rewards.astype(np.float32)) and np.array_equal(done, truncated)
        for i, own in enumerate(infos):
            assert own["success"] == info["success"][i] and own["TimeLimit.truncated"] == truncated[i]
            assert ("terminal_observation" in own) == ("episode" in own) == truncated[i]
            if truncated[i]:
                assert np.array_equal(own["terminal_observation"], info["final_obs"][i].astype(np.float32))
                assert np.isclose(own["episode"]["r"], total[i]) and own["episode"]["l"] == 3
        total *= step % 3 != 2
    envs.close()
    plain.close()


def test_attributes_and_methods_reach_all_copies() -> None:
    from stable_baselines3.common.monitor import Monitor

    envs = adapted()
    envs.env_method("toggle_terminate_on_success", True)
    assert envs.get_attr("terminate_on_success") == [True] * 4
    envs.set_attr("terminate_on_success", False)
    assert envs.get_attr("terminate_on_success", [1, 2]) == [False] * 2
    assert envs.env_is_wrapped(Monitor) == [True] * 4 and envs.get_images() == [None] * 4
    with pytest.raises(UserError, match="all sub-environments change together"):
        envs.set_attr("terminate_on_success", True, indices=[0])
    envs.close()


def test_info_of_any_kind_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words and vectors, as wrappers and other environments give them."""
    envs = adapted(max_episode_steps=3)
    step = envs.envs.step

    def informed(actions: Any) -> Any:
        *found, info = step(actions)
        words = np.array([f"copy {i}" for i in range(4)], dtype=object)
        return *found, info | {"word": words, "place": np.arange(8.0).reshape(4, 2)}

    monkeypatch.setattr(envs.envs, "step", informed)
    envs.reset()
    infos = envs.step(np.zeros((4, 4)))[3]
    assert [own["word"] for own in infos] == ["copy 0", "copy 1", "copy 2", "copy 3"]
    assert infos[1]["place"].tolist() == [2.0, 3.0] and infos[1]["success"] == 0.0
    envs.close()


def test_other_restarts_are_refused() -> None:
    with pytest.raises(UserError, match="SAME_STEP"):
        adapted(autoreset_mode="NextStep")


def test_ppo_gets_better_on_one_task() -> None:
    """The example, shorter."""
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/stable_baselines3_ppo.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    before, after = example.learn(steps=21_000)
    assert after > 1.5 * before
