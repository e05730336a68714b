"""The batched engine as a ``gymnasium.vector.VectorEnv``, for any library: ``gymnasium.make_vec("mtrl/MT10-v3", ...)``.

Importing `mtrl.envs.metaworld` registers ``mtrl/MT1-v3``, ``mtrl/MT10-v3``, ``mtrl/MT25-v3`` and ``mtrl/MT50-v3``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.types import StepResult
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite

Array = NDArray[Any]


class MetaWorldVectorEnv(VectorEnv):
    """T tasks × N copies; sub-environment ``t · N + n`` is copy n of task t.

    An ended episode restarts in the same step (``AutoresetMode.SAME_STEP``): ``info["final_obs"]`` and
    ``info["final_info"]`` hold where it ended. ``info`` has the package's terms for every sub-environment, and
    ``faults``, how often each has failed.

    Args:
        kind: mt1, mt10, mt25 or mt50.
        num_envs: T · N; 1 stands for one copy of each task.
        task: the one task of mt1.
        seed: of the benchmark's goals and, until `reset` is given another, of their order.
        use_one_hot: append the task's one-hot code (T) to the observation (39).
        threads: by default, one per core.
    """

    def __init__(
        self,
        kind: str,
        num_envs: int = 1,
        *,
        task: str | None = None,
        seed: int = 0,
        use_one_hot: bool = False,
        reward_function_version: str = "v2",
        terminate_on_success: bool = False,
        max_episode_steps: int = 500,
        num_goals: int = 50,
        threads: int | None = None,
    ) -> None:
        config = Config(
            kind, tasks=[task] if task else [], reward_version=reward_function_version, horizon=max_episode_steps,
            num_goals=num_goals, terminate_on_success=terminate_on_success,
        )  # fmt: skip
        suite = MetaWorldSuite(config)
        self.tasks = tuple(suite.tasks)
        num_envs = len(self.tasks) if num_envs == 1 else num_envs
        check(num_envs % len(self.tasks) == 0, "num_envs", f"a multiple of {len(self.tasks)}", num_envs)
        self.num_envs = num_envs
        self.envs: BatchedEnvs = suite.batched_envs(seed, num_envs // len(self.tasks), threads=threads, with_info=True)
        codes = np.repeat(np.eye(len(self.tasks)), num_envs // len(self.tasks), axis=0)
        self._codes = codes if use_one_hot else codes[:, :0]
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        size = suite.spec.observation_size + self._codes.shape[1]
        self.single_observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.single_action_space = Box(-1.0, 1.0, (suite.spec.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start all episodes anew: (num_envs, O). With a seed, the order of the goals follows from it."""
        super().reset(seed=seed, options=options)
        return self._flat(self.envs.reset(seed)), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Actions (num_envs, 4) in [-1, 1]; all arrays that come back are copies."""
        result = self.envs.step(np.reshape(actions, (len(self.tasks), -1, 4)))
        ended = (result.terminated | result.truncated).reshape(-1)
        info = self._info(result, np.ones(self.num_envs, np.bool_))
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            reached = self._flat(result.next_observation)
            for i in np.flatnonzero(ended):
                final[i] = reached[i]
            info |= {"final_obs": final, "final_info": self._info(result, ended)}
            info |= {"_final_obs": ended, "_final_info": ended}
        ends = (result.terminated.reshape(-1).copy(), result.truncated.reshape(-1).copy())
        return self._flat(result.observation), result.reward.reshape(-1).copy(), *ends, info

    def _info(self, result: StepResult, which: NDArray[np.bool_]) -> dict[str, Any]:
        """The package's terms, zero where a sub-environment is not asked for, with gymnasium's masks."""
        terms = {**self.envs.info(), "unscaled_reward": result.reward, "faults": self.envs.faults}
        info = {name: np.where(which, value.reshape(-1), 0) for name, value in terms.items()}
        return info | {f"_{name}": which.copy() for name in terms}

    def _flat(self, observation: Array) -> Array:
        return np.concatenate([observation.reshape(self.num_envs, -1), self._codes], axis=1)

    def state_dict(self) -> dict[str, Any]:
        return self.envs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Go back to a saved state and return its observations (num_envs, O)."""
        return self._flat(self.envs.load_state_dict(state))

    def close_extras(self, **kwargs: Any) -> None:
        self.envs.close()


def register() -> None:
    for kind in ("mt1", "mt10", "mt25", "mt50"):
        name = f"mtrl/{kind.upper()}-v3"
        if name not in gymnasium.registry:
            gymnasium.register(name, vector_entry_point=f"{__name__}:MetaWorldVectorEnv", kwargs={"kind": kind})
