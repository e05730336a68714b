"""Episodes of pushing on the batched engine: N for each of T goals at a time. All start and end together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.core.errors import expected
from mtrl.core.subset import SomeTasks
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.starts import Known
from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.push import push_dense, push_v1, push_v2
from mtrl.envs.pushing.goals import TASK, Goals, as_tasks, nearest, normalised

RADIUS = 0.05
"""Metres between the puck and its place (the target position) at which the goal counts as reached."""
FRAME = 11
"""A frame: hand (3), gripper opening (1), puck position (3), puck orientation as a quaternion (4)."""
RAW_SIZE = OBSERVATION_SIZE = 2 * FRAME
_FRAMES = np.r_[0:FRAME, 18 : 18 + FRAME]
"""The indices of the current and the previous frame in the scene's 39 numbers, of which the last 3 are the goal."""
_CENTRE = np.array([0.0, 0.75, 0.1, 0.5, 0.0, 0.75, 0.1, 0.0, 0.0, 0.0, 0.0], np.float32)
_SCALE = np.array([0.1] * 3 + [0.5] + [0.1] * 3 + [1.0] * 4, np.float32)
_MOVE = np.array([0.01] * 3 + [0.1] + [0.01] * 3 + [0.1] * 4, np.float32)
PUCK_XY = slice(4, 6)
SCENE_REWARDS = {"v1": push_v1, "v2": push_v2, "dense": push_dense}
REWARDS = (*SCENE_REWARDS, "distance", "sparse")
"""The rewards that the scene computes, and those of `goal_reward`."""


def features(raw: FloatArray, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Write two frames (.., 22) into `out` as networks see them, and return it.

    First comes the current frame, centred and scaled, then the scaled change since the previous one.
    """
    current, before = raw[..., :FRAME], raw[..., FRAME:]
    out[..., :FRAME] = (current - _CENTRE) / _SCALE
    out[..., FRAME:] = (current - before) / _MOVE
    return out


def puck_of(observation: Any) -> Any:
    """The puck's xy in metres, (.., 2), from the `features` of two frames (.., 22)."""
    # x and y have different centres and the same scale.
    return observation[..., PUCK_XY] * float(_SCALE[4]) + _centre(observation.device).to(observation.dtype)


@functools.cache
def _centre(device: torch.device) -> torch.Tensor:
    return torch.tensor(_CENTRE[PUCK_XY], device=device)


def goal_reward(kind: str, achieved: Any, desired: Any, xp: Any = np) -> Any:
    """Rewards (..) that depend only on the xy of the puck and of its place, each (.., 2).

    kind: distance, −‖puck − place‖ in metres; or sparse, 0 within `RADIUS` of the place and otherwise −1 (Andrychowicz
    et al. 2017). xp: the arrays' library, numpy or torch.
    """
    apart = xp.sqrt(((achieved - desired) ** 2).sum(-1))
    return -apart if kind == "distance" else xp.where(apart <= RADIUS, 0.0, -1.0)


class _Engine(BatchedEnvs):
    """Copies whose next goals are given. All episodes end together: a failed copy restarts for the remaining steps."""

    def __init__(self, tasks: list[Task], copies: int, **options: Any) -> None:
        self.next_goals = np.zeros(copies, np.int64)
        self.clock = 0
        super().__init__({TASK: tasks}, 0, copies, **options)

    def _next_goal(self, t: int, n: int) -> None:
        self._goal[t, n] = self.next_goals[n]

    def _start(self, t: int, n: int) -> None:
        super()._start(t, n)
        self._elapsed[t, n] = self.clock


class PushEnvs:
    """N copies for each of T goals, which `present` gives. Implements `TaskVectorEnv`.

    Observations are float32 (22, see `features`) and do not contain the goal. All episodes are truncated together at
    the horizon, and T new goals are drawn without repetition. If a copy fails earlier, its episode is truncated then,
    and the copy plays another one for the remaining steps.

    Args:
        goals: (n, 4), the goals of episodes, with n ≥ T.
        table: (G, 4), the discretised goals. A goal's index is that of the nearest goal in this table.
        seed: the seed of the stream from which goals are drawn.
        num_tasks: T.
        envs_per_task: N.
        reward: one of `REWARDS`.
        horizon: steps of an episode.
        fixed: whether the goals are always the first T, in order, instead of random ones.
        threads, known: see `BatchedEnvs`.
    """

    def __init__(
        self,
        goals: Goals,
        table: Goals,
        seed: int,
        num_tasks: int,
        envs_per_task: int,
        *,
        reward: str = "dense",
        horizon: int = 150,
        fixed: bool = False,
        threads: int | None = None,
        known: Known | None = None,
    ) -> None:
        self.num_tasks, self.envs_per_task, self.goals = num_tasks, envs_per_task, goals
        self._reward_kind, self._horizon, self._fixed, self._start = reward, horizon, fixed, seed
        self._codes = torch.from_numpy(normalised(goals))
        self._index = torch.from_numpy(nearest(goals, table))
        self._engine = _Engine(
            as_tasks(goals),
            num_tasks * envs_per_task,
            specs={TASK: replace(TASKS[TASK], reward_v2=SCENE_REWARDS.get(reward, push_dense))},
            horizon=horizon,
            threads=threads,
            known=known,
        )
        grid = (num_tasks, envs_per_task)
        self.raw, self.next_raw = np.zeros((2, *grid, RAW_SIZE))
        self._observation, self._next_observation = np.zeros((2, *grid, OBSERVATION_SIZE), np.float32)
        self.distance = np.zeros(grid)
        self._chosen = np.arange(num_tasks)
        self._rng = np.random.default_rng(seed)

    @property
    def present(self) -> SomeTasks:
        """The goals of the current episodes: after a step that ended episodes, those of the next ones."""
        chosen = torch.from_numpy(self._chosen)
        return SomeTasks(self._index[chosen], self._codes[chosen])

    @property
    def place(self) -> FloatArray:
        """(T, 1, 2): the xy of the place to which each goal's puck should be pushed."""
        return self.goals[self._chosen, None, 2:]

    @property
    def faults(self) -> NDArray[np.int64]:
        """(T, N): see `BatchedEnvs.faults`."""
        return self._engine.faults.reshape(self.distance.shape)

    def reset(self, seed: int | None = None) -> FloatArray:
        self._start = self._start if seed is None else seed
        self._rng = np.random.default_rng(self._start)
        self._draw()
        self._engine.clock = 0
        self._engine.reset()
        return self._observe(self._engine.observation, self.raw, self._observation)

    def step(self, action: FloatArray) -> StepResult:
        engine, place = self._engine, self.place
        engine.clock = (engine.clock + 1) % self._horizon
        if engine.clock == 0:
            self._draw()
        result = engine.step(np.reshape(action, (1, -1, 4)))
        reached = self._observe(result.next_observation, self.next_raw, self._next_observation)
        shape = self.distance.shape
        reward, puck = result.reward.reshape(shape), self.next_raw[..., PUCK_XY]
        self.distance[...] = np.linalg.norm(puck - place, axis=-1)
        if self._reward_kind not in SCENE_REWARDS:
            reward = goal_reward(self._reward_kind, puck, place)
        observation = self._observe(result.observation, self.raw, self._observation)
        ends = (result.terminated.reshape(shape), result.truncated.reshape(shape))
        final = {"distance": self.distance}
        return StepResult(observation, reward, *ends, reached, self.distance <= RADIUS, final)

    def states(self) -> FloatArray:
        """(T · N, S): the simulator's state vectors, of size S."""
        return self._engine.physics[0].states()

    def _observe(self, frames: FloatArray, raw: FloatArray, out: NDArray[np.float32]) -> FloatArray:
        raw[...] = frames[0][:, _FRAMES].reshape(raw.shape)
        return features(raw, out)

    def _draw(self) -> None:
        """Choose the goals of the next episodes."""
        if not self._fixed:
            self._chosen = self._rng.choice(len(self.goals), self.num_tasks, replace=False)
        self._engine.next_goals[...] = np.repeat(self._chosen, self.envs_per_task)

    def state_dict(self) -> dict[str, Any]:
        return {
            "engine": self._engine.state_dict(),
            "clock": self._engine.clock,
            "chosen": torch.from_numpy(self._chosen.copy()),
            "start": self._start,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        if len(state["chosen"]) != self.num_tasks:
            raise expected("Saved environments (goals)", str(self.num_tasks), len(state["chosen"]))
        self._chosen = state["chosen"].cpu().numpy().copy()
        self._engine.next_goals[...] = np.repeat(self._chosen, self.envs_per_task)
        self._engine.clock, self._start = state["clock"], state["start"]
        self._rng.bit_generator.state = state["rng"]
        return self._observe(self._engine.load_state_dict(state["engine"]), self.raw, self._observation)

    def close(self) -> None:
        self._engine.close()
