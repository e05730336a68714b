"""What fills the rollout of an on-policy learner: steps of all N copies of every task, taken here or elsewhere.

The copies stand in W parts of N / W copies each, `training.workers`. A part acts and steps by itself, and its
environments are what they would be among all N. So the same W parts give the same steps bit for bit, be they in this
process (`LocalCollector`) or in processes of their own (`ray_collector`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mtrl.core.cores import torch_threads
from mtrl.core.types import StepResult, TaskVectorEnv

Clock = Callable[[str], contextlib.AbstractContextManager[None]]
"""Counts the seconds of act, and of step."""
PartState = dict[str, Any]
"""Of the environments of a part, as their `state_dict` gives it."""


class Actor(Protocol):
    """What a collector needs of a learner."""

    device: torch.device

    def noise(self, leading: tuple[int, ...]) -> Tensor:
        """What exploration draws at random for actions (*leading, A)."""
        ...

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """observation (T, N, O), noise (T, N, A) -> actions (T, N, A), which may lie outside [-1, 1]."""
        ...

    def exploring_state(self) -> dict[str, Any]:
        """What `explore` depends on; `load_exploring_state` takes it over in another process."""
        ...

    def load_exploring_state(self, state: Mapping[str, Any]) -> None: ...


class Step(NamedTuple):
    """One step of all copies. The result's arrays are reused by the next step."""

    observation: Tensor
    """(T, N, O): what was acted on."""
    action: Tensor
    """(T, N, A), not clipped."""
    result: StepResult


class Collector(Protocol):
    """Takes steps with the current policy."""

    def collect(self, most: int) -> Iterator[Step]:
        """The next steps, one at least and `most` at most; all of them are to be taken."""
        ...

    def state_dict(self) -> list[PartState]:
        """Where the environments of each part are. No step is under way."""
        ...

    def load_state_dict(self, state: Sequence[PartState]) -> None: ...

    def close(self) -> None: ...


class Part:
    """Some copies of every task and the policy that acts in them."""

    def __init__(self, agent: Actor, envs: TaskVectorEnv) -> None:
        self._agent, self.envs = agent, envs
        self.observation: Tensor | None = None
        """(T, n, O): what to act on next."""

    def step(self, noise: Tensor, clock: Clock) -> Step:
        """noise: (T, n, A)"""
        if self.observation is None:
            self.observation = torch.tensor(self.envs.reset(), dtype=torch.float32)
        before = self.observation
        with clock("act"), torch_threads(1):
            action = self._agent.explore(before, noise)
            played = action.clamp(-1, 1).cpu().numpy()
        with clock("step"):
            result = self.envs.step(played)
        self.observation = torch.tensor(result.observation, dtype=torch.float32)
        return Step(before, action, result)

    def load_state_dict(self, state: PartState) -> None:
        self.observation = torch.tensor(self.envs.load_state_dict(state), dtype=torch.float32)


class LocalCollector:
    """All parts in this process, one after another; a step at a time."""

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
    """The steps of all parts as one."""
    observation, action = (torch.cat([getattr(step, name) for step in steps], 1) for name in ("observation", "action"))
    names = ("observation", "reward", "terminated", "truncated", "next_observation", "success")
    arrays: dict[str, Any] = {n: np.concatenate([getattr(step.result, n) for step in steps], 1) for n in names}
    return Step(observation, action, StepResult(**arrays))
