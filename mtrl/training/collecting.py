"""Collects steps of all N copies of every task's environment, in this process or in others.

The copies are divided into W parts (`training.workers`) of N / W copies each. Each part acts and steps separately. Its
copies keep their numbers among the N, and with them their seeds. For a given W, steps are therefore the same, bit for
bit, in this process (`LocalCollector`) and in processes of their own (`ray_collector`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import check, option, runtime_option
from mtrl.core.cores import torch_threads
from mtrl.core.types import StepResult, TaskVectorEnv
from mtrl.training.trainer import TrainingConfig

Clock = Callable[[str], contextlib.AbstractContextManager[None]]
"""Called with a name, act or step; measures the time of the block."""
PartState = dict[str, Any]
"""The `state_dict` of a part's environments."""


@dataclass
class CollectorConfig(TrainingConfig):
    """Options of training loops whose environments may run in several processes."""

    envs_per_task: int = option(1, "a positive integer")
    """N: copies of each task's environment, which step in parallel."""
    workers: int = option(1, "a positive integer")
    """W: parts into which the copies of every task are divided; with collector=ray, each has a process of its own."""
    collector: str = option("local", ("local", "ray"))
    """Where steps are taken: in this process (local), or in processes on the machines of a Ray cluster (ray)."""
    collector_address: str = runtime_option("")
    """With collector=ray: host:port of the cluster, or auto. If not given, the environment variable RAY_ADDRESS is
    used. Without that, a new cluster of only this machine is started."""
    collector_cpus: int = runtime_option(1, "a positive integer")
    """With collector=ray: cores of each process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divisor = f"a divisor of training.envs_per_task ({self.envs_per_task})"
        check(self.envs_per_task % self.workers == 0, "training.workers", divisor, self.workers)

    @property
    def parts(self) -> list[range]:
        """The copies of each part, by their numbers 0 to N − 1."""
        size = self.envs_per_task // self.workers
        return [range(first, first + size) for first in range(0, self.envs_per_task, size)]


class Actor(Protocol):
    """What a collector needs of an agent."""

    device: torch.device

    def noise(self, leading: tuple[int, ...]) -> Tensor:
        """Standard normal noise for exploration, (*leading, A)."""
        ...

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """observation (T, N, O), noise (T, N, A) -> actions (T, N, A), which may lie outside [-1, 1]."""
        ...

    def exploring_state(self) -> dict[str, Any]:
        """What `explore` depends on, for `load_exploring_state` in another process."""
        ...

    def load_exploring_state(self, state: Mapping[str, Any]) -> None: ...


class Step(NamedTuple):
    """One step of all copies. The next step may overwrite the result's arrays."""

    observation: Tensor
    """(T, N, O): the observations acted on."""
    action: Tensor
    """(T, N, A), not clipped."""
    result: StepResult


class Collector(Protocol):
    """Takes steps with the current policy."""

    def collect(self, most: int) -> Iterator[Step]:
        """Take between one and `most` further steps. The caller must use all of them."""
        ...

    def state_dict(self) -> list[PartState]:
        """The state of each part's environments, between two calls of `collect`."""
        ...

    def load_state_dict(self, state: Sequence[PartState]) -> None: ...

    def close(self) -> None: ...


class Explorer(Protocol):
    """What chooses a part's actions."""

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """As in `Actor`."""
        ...


class _Random:
    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Uniform in [-1, 1]: 2 Φ(x) − 1 for standard normal noise x, with the cumulative distribution function Φ."""
        return torch.erf(noise / math.sqrt(2))


RANDOM: Explorer = _Random()


class Part:
    """Some copies of every task's environment, and the policy that acts in them."""

    def __init__(self, agent: Explorer, envs: TaskVectorEnv) -> None:
        self.agent, self.envs = agent, envs
        self.observation: Tensor | None = None
        """(T, n, O): the observations to act on next. None until the first step, or until a state is loaded."""

    def step(self, noise: Tensor, clock: Clock) -> Step:
        """Take one step of all n copies. noise: (T, n, A)."""
        if self.observation is None:
            self.observation = torch.tensor(self.envs.reset(), dtype=torch.float32)
        before = self.observation
        with clock("act"), torch_threads(1):
            action = self.agent.explore(before, noise)
            played = action.clamp(-1, 1).cpu().numpy()
        with clock("step"):
            result = self.envs.step(played)
        self.observation = torch.tensor(result.observation, dtype=torch.float32)
        return Step(before, action, result)

    def load_state_dict(self, state: PartState) -> None:
        self.observation = torch.tensor(self.envs.load_state_dict(state), dtype=torch.float32)


class LocalCollector:
    """Steps all parts in this process, one after another. Each call of `collect` takes one step."""

    def __init__(self, agent: Actor, envs: Sequence[TaskVectorEnv], clock: Clock) -> None:
        self._agent, self._clock = agent, clock
        self.parts = [Part(agent, one) for one in envs]

    def collect(self, most: int) -> Iterator[Step]:
        tasks, copies = self.parts[0].envs.num_tasks, sum(part.envs.envs_per_task for part in self.parts)
        with self._clock("act"):
            noise = self._agent.noise((tasks, copies)).chunk(len(self.parts), 1)
        steps = [part.step(share, self._clock) for part, share in zip(self.parts, noise, strict=True)]
        yield steps[0] if len(steps) == 1 else _together(steps)

    def state_dict(self) -> list[PartState]:
        return [part.envs.state_dict() for part in self.parts]

    def load_state_dict(self, state: Sequence[PartState]) -> None:
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)

    def close(self) -> None:
        for part in self.parts:
            part.envs.close()


def _together(steps: Sequence[Step]) -> Step:
    """Join one step of each part along N."""
    observation, action = (torch.cat([getattr(step, name) for step in steps], 1) for name in ("observation", "action"))
    names = ("observation", "reward", "terminated", "truncated", "next_observation", "success")
    arrays: dict[str, Any] = {n: np.concatenate([getattr(step.result, n) for step in steps], 1) for n in names}
    return Step(observation, action, StepResult(**arrays))
