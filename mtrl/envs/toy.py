"""A small multi-task suite for tests and smoke runs: point masses whose controls are rotated against each other.

In every task, a point has to move from a random start to a random goal in the same plane. The action of task t is
rotated by 2πt/T before it moves the point. The observation does not distinguish tasks, so in the same state task 0 and
task T/2 need opposite actions, and their gradients conflict wherever they share weights. The code is pure NumPy, and
does about 10^6 steps per second with dozens of copies of each task.
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
from mtrl.core.suite import EPISODES, ChosenTasks, Suite
from mtrl.core.types import FloatArray, StepResult

SPEED = 0.15
"""The longest move along each axis of an action in one step. The plane is [-1, 1]²."""
GOAL_RADIUS = 0.1
"""The task is solved within this distance of the goal."""
MIN_DISTANCE = 0.8
"""The least distance between start and goal."""
OBSERVATION_SIZE = 6
"""Position (2), last move (2), goal minus position (2)."""
_STATE = ("position", "velocity", "goal", "length")


@dataclass
class Config(ChosenTasks):
    """Options of the toy suite."""

    spec_type: ClassVar[type[Spec]] = ControlSpec

    kind: str = "toy"
    num_tasks: int = option(4, "in 1..360")
    """The number of rotations, and so of tasks, unless `tasks` chooses some by name. Names give the rotation in whole
    degrees, such as turn-90."""
    horizon: int = option(25, "a positive integer")
    """Steps after which an episode is truncated. The farthest goal takes fewer."""
    shuffled_rewards: bool = False
    """Whether rewards are computed for a random point in place of the agent's, so that nothing can be learned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_tasks(self.names())

    def names(self) -> tuple[str, ...]:
        """The names of all `num_tasks` tasks, whether chosen or not."""
        return tuple(f"turn-{360 * t // self.num_tasks}" for t in range(self.num_tasks))

    def turns(self) -> list[int]:
        """The number t of each chosen task; all numbers if none is chosen."""
        return [self.names().index(task) for task in self.tasks] or list(range(self.num_tasks))


class ToySuite(Suite[Config, ControlSpec]):
    """T rotated point masses; see the module's docstring."""

    def __init__(self, config: Config) -> None:
        self.config = config
        tasks = tuple(config.tasks or config.names())
        self.spec = ControlSpec(tasks, OBSERVATION_SIZE, 2, config.horizon)

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> ToyEnvs:
        return ToyEnvs(self.config, seed, envs_per_task, copies=copies)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> ToyEnvs:
        """One copy for each episode. Both protocols draw new starts and goals."""
        check_choice("evaluation.protocol", protocol, ("goals", "upstream"))
        check(episodes >= 1, EPISODES, "a positive integer", episodes)
        return ToyEnvs(self.config, seed, episodes, terminate_on_success=True)

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "horizon": self.config.horizon,
            "goals": f"uniform, at least {MIN_DISTANCE} from the start, drawn for each episode",
            "shuffled_rewards": self.config.shuffled_rewards,
        }


class ToyEnvs:
    """T tasks × N copies of the point mass. Implements `TaskVectorEnv`, with float64 arrays.

    The reward is 1 − d / (2√2), which is in [0, 1]. d is the distance to the goal after the move.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        envs_per_task: int,
        terminate_on_success: bool = False,
        copies: range | None = None,
    ) -> None:
        """copies: which of the `envs_per_task` copies to make; all if not given. Each behaves as if all were made."""
        turns = np.array(config.turns())
        self._drawn = (len(turns), envs_per_task, 2)
        copies = range(envs_per_task) if copies is None else copies
        self._here = slice(copies.start, copies.stop)
        self.num_tasks, self.envs_per_task = len(turns), len(copies)
        self._config, self._terminate = config, terminate_on_success
        angle = 2 * np.pi * turns / config.num_tasks
        self._rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
        shape = (self.num_tasks, self.envs_per_task)
        self._position, self._velocity, self._goal = (np.zeros((*shape, 2)) for _ in range(3))
        self._length = np.zeros(shape, np.int64)
        self._next_observation, self._observation = (np.zeros((*shape, OBSERVATION_SIZE)) for _ in range(2))
        self._start = seed
        self.reset()

    def reset(self, seed: int | None = None) -> FloatArray:
        self._start = self._start if seed is None else seed
        self._rng = np.random.default_rng(self._start)
        self._begin(np.ones((self.num_tasks, self.envs_per_task), bool))
        return self._observe(self._observation)

    def step(self, action: FloatArray) -> StepResult:
        before = self._position.copy()
        push = SPEED * np.clip(np.asarray(action, np.float64), -1, 1)
        np.clip(before + np.einsum("tij,tnj->tni", self._rotation, push), -1, 1, out=self._position)
        np.subtract(self._position, before, out=self._velocity)
        self._length += 1
        distance = np.linalg.norm(self._goal - self._position, axis=-1)
        success = distance < GOAL_RADIUS
        terminated = success & self._terminate
        truncated = self._length >= self._config.horizon
        self._observe(self._next_observation)
        reward = self._reward(distance)
        self._begin(terminated | truncated)
        return StepResult(
            self._observe(self._observation), reward, terminated, truncated, self._next_observation, success
        )

    def state_dict(self) -> dict[str, Any]:
        arrays = {name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in _STATE}
        return {**arrays, "start": self._start, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        if tuple(state["length"].shape) != self._length.shape:
            raise expected("Saved environments (T, N)", str(self._length.shape), tuple(state["length"].shape))
        for name in _STATE:
            getattr(self, f"_{name}")[...] = state[name].cpu().numpy()
        self._start = state["start"]
        self._rng.bit_generator.state = state["rng"]
        return self._observe(self._observation)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _reward(self, distance: FloatArray) -> FloatArray:
        if self._config.shuffled_rewards:
            elsewhere = self._rng.uniform(-1, 1, self._drawn)[:, self._here]
            distance = np.linalg.norm(self._goal - elsewhere, axis=-1)
        return 1 - distance / np.sqrt(8)

    def _begin(self, where: np.ndarray) -> None:
        """Start new episodes for the copies in `where` (T, N).

        Starts and goals are drawn for all `envs_per_task` copies. In training, the episodes of all copies end
        together, so the chosen `copies` get the same numbers as if all were made.
        """
        if not where.any():
            return
        start, goal = self._rng.uniform(-0.9, 0.9, (2, *self._drawn))
        while (near := np.linalg.norm(goal - start, axis=-1) < MIN_DISTANCE).any():
            goal[near] = self._rng.uniform(-0.9, 0.9, (int(near.sum()), 2))
        start, goal = start[:, self._here], goal[:, self._here]
        self._position[where], self._goal[where] = start[where], goal[where]
        self._velocity[where] = 0
        self._length[where] = 0

    def _observe(self, out: FloatArray) -> FloatArray:
        np.concatenate((self._position, self._velocity, self._goal - self._position), axis=-1, out=out)
        return out


def build(config: Config) -> ToySuite:
    return ToySuite(config)
