"""A point in the plane should move to a goal on a circle. The goal is hidden: tasks differ only in their rewards.

This is the smallest family for experiments on task inference: the point robot of PEARL (Rakelly et al. 2019), with
goals on a whole circle. All tasks have the same starts and the same dynamics. The code is pure NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from mtrl.core.config import check, check_choice, option
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.suite import EPISODES, FamilyConfig, Suite
from mtrl.core.types import FloatArray, StepResult

SPEED = 0.15
"""The largest move along each axis in one step."""
START = 0.5
"""Starts are uniform within this distance of the circle's centre along each axis. The circle's radius is 1."""
_EDGE = 2.0
"""Coordinates are limited to [-_EDGE, _EDGE]."""


@dataclass
class Config(FamilyConfig):
    """Options of the point family."""

    spec_type: ClassVar[type[Spec]] = ControlSpec

    kind: str = "point"
    horizon: int = option(20, "a positive integer")
    """Steps of an episode. The farthest goal is 10 steps away."""


class PointSuite(Suite[Config, ControlSpec]):
    """The point family; see the module's docstring."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = ControlSpec(config.chosen, 2, 2, config.horizon, tells_success=False)

    @property
    def unseen(self) -> PointSuite:
        return PointSuite(self.config.held_out())

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> PointEnvs:
        return PointEnvs(self.config, seed, envs_per_task, copies)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> PointEnvs:
        """One copy for each episode. Both protocols draw random starts.

        Raises:
            UserError: an unknown protocol, or no episodes.
        """
        check_choice("evaluation.protocol", protocol, ("goals", "upstream"))
        check(episodes >= 1, EPISODES, "a positive integer", episodes)
        return PointEnvs(self.config, seed, episodes)

    def description(self) -> dict[str, Any]:
        seen, unseen = (
            {task: round(360 * self.config.goal(task), 1) for task in tasks}
            for tasks in (self.tasks, self.config.held_out().chosen)
        )
        facts = {"benchmark": self.name, "tasks": list(self.tasks), "horizon": self.config.horizon}
        return facts | {"goals": seen, "unseen_goals": unseen}


class PointEnvs:
    """N copies of each of T tasks. Implements `TaskVectorEnv`.

    Observations are the point's position (2). It moves by `SPEED` times the action (2). The reward is minus the
    distance to the goal after the move. Copy n starts at the same position in every task.

    Args:
        envs_per_task: N.
        copies: the indices of the copies to make; by default, all N. A copy's starts do not depend on this.
    """

    def __init__(self, config: Config, seed: int, envs_per_task: int, copies: range | None = None) -> None:
        angles = 2 * np.pi * np.array([config.goal(task) for task in config.chosen])
        self._goal = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
        copies = range(envs_per_task) if copies is None else copies
        self._all, self._here = envs_per_task, slice(copies.start, copies.stop)
        self.num_tasks, self.envs_per_task = len(angles), len(copies)
        self._horizon, self._start, self._length = config.horizon, seed, 0
        self._position = np.zeros((self.num_tasks, self.envs_per_task, 2))
        self.reset()

    def reset(self, seed: int | None = None) -> FloatArray:
        self._start = self._start if seed is None else seed
        self._rng = np.random.default_rng(self._start)
        self._begin()
        return self._position.copy()

    def step(self, action: FloatArray) -> StepResult:
        self._position += SPEED * np.clip(np.asarray(action, np.float64), -1, 1)
        np.clip(self._position, -_EDGE, _EDGE, out=self._position)
        reached, reward = self._position.copy(), -np.linalg.norm(self._goal - self._position, axis=-1)
        self._length += 1
        never = np.zeros(reward.shape, bool)
        truncated = np.full(reward.shape, self._length == self._horizon)
        if self._length == self._horizon:
            self._begin()
        return StepResult(self._position.copy(), reward, never, truncated, reached, never)

    def _begin(self) -> None:
        self._position[:] = self._rng.uniform(-START, START, (self._all, 2))[self._here]
        self._length = 0

    def state_dict(self) -> dict[str, Any]:
        state = {"position": torch.from_numpy(self._position.copy()), "length": self._length, "start": self._start}
        return state | {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        if tuple(state["position"].shape) != self._position.shape:
            raise expected("Saved environments (T, N, 2)", str(self._position.shape), tuple(state["position"].shape))
        self._position[:] = state["position"].cpu().numpy()
        self._length, self._start = state["length"], state["start"]
        self._rng.bit_generator.state = state["rng"]
        return self._position.copy()

    def close(self) -> None:
        """Nothing to close."""


def build(config: Config) -> PointSuite:
    return PointSuite(config)
