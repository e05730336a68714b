"""Gymnasium's vector environments for stable-baselines3: ``PPO("MlpPolicy", SB3VecEnv(gymnasium.make_vec(...)))``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from mtrl.core.errors import expected


class SB3VecEnv(VecEnv):
    """A stable-baselines3 `VecEnv`, made from a vector environment whose episodes restart in the same step.

    Observations are float32, or uint8 for pictures. When an episode ends, its info has `episode`,
    `terminal_observation` and `TimeLimit.truncated`, so that no `Monitor` is needed.

    Args:
        envs: in `AutoresetMode.SAME_STEP`, such as ``gymnasium.make_vec("mtrl/MT1-v3", task="reach-v3", num_envs=8)``.

    Raises:
        UserError: the environments have another autoreset mode, or observations that are not a single array.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise expected("Argument `envs`", "made with AutoresetMode.SAME_STEP", mode)
        space = envs.single_observation_space
        if not isinstance(space, Box):
            raise expected("Argument `envs`", "environments whose observations are vectors or pictures", space)
        self.envs = envs
        self._envs: Any = envs  # the class VectorEnv lacks `call` and others, which all of these environments have
        self._dtype: Any = np.uint8 if space.dtype == np.uint8 else np.float32
        low, high = (bound.astype(self._dtype) for bound in (space.low, space.high))
        super().__init__(envs.num_envs, Box(low, high, dtype=self._dtype), envs.single_action_space)
        self._actions: Any = None
        self._totals, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def reset(self) -> VecEnvObs:
        seeds: Any = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, _ = self.envs.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        self._totals[:], self._lengths[:] = 0, 0
        return np.array(observation, self._dtype)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, info = self.envs.step(self._actions)
        done = terminated | truncated
        self._totals += reward
        self._lengths += 1
        infos = [self._info(i, info, bool(done[i]), bool(truncated[i] & ~terminated[i])) for i in range(self.num_envs)]
        self._totals[done], self._lengths[done] = 0, 0
        observation = np.array(observation, self._dtype)  # stable-baselines3 stores the last one after the next step
        return observation, reward.astype(np.float32), done, infos

    def _info(self, i: int, info: dict[str, Any], done: bool, cut: bool) -> dict[str, Any]:
        """The info of sub-environment i for this step."""
        arrays = {k: v[i] for k, v in info.items() if isinstance(v, np.ndarray) and k[0] != "_" and k != "final_obs"}
        own = {k: v.item() if isinstance(v, np.generic) else copy.copy(v) for k, v in arrays.items()}
        own["TimeLimit.truncated"] = cut
        if done:
            statistics = info["final_info"].get("episode", {})
            seconds = float(statistics["t"][i]) if "t" in statistics else 0.0
            own["episode"] = {"r": float(self._totals[i]), "l": int(self._lengths[i]), "t": seconds}
            own["terminal_observation"] = np.asarray(info["final_obs"][i], self._dtype)
        return own

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        found = self._envs.get_attr(attr_name)
        return [found[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self._require_all(indices)
        self._envs.set_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        self._require_all(indices)
        return list(self._envs.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Report a `Monitor` as present, since `info` already has the record of each episode that one would add."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def get_images(self) -> list[Any]:
        pictures: Any = self.envs.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def close(self) -> None:
        self.envs.close()

    def _require_all(self, indices: Any) -> None:
        chosen: Iterable[int] = self._get_indices(indices)
        if list(chosen) != list(range(self.num_envs)):
            raise expected("Argument `indices`", "None: all sub-environments change together", indices)
