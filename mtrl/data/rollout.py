"""One rollout of an on-policy learner, in preallocated tensors on the learner's device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.core.types import StepResult, Transitions

_TRANSITION = ("observation", "action", "reward", "next_observation", "terminated", "ended")
_FIELDS = (*_TRANSITION, "success")


class Rollout:
    """R steps of T tasks with N environments each. Every field is (T, R, N, ..), and the next rollout overwrites it.

    observation, action and next_observation are (.., O), (.., A) and (.., O). Actions are those that the policy
    sampled, before environments clip them. terminated, ended and success are float: terminated is 1 where the episode
    terminated, ended is 1 where it terminated or was truncated, and success is 1 where the task is solved in the state
    that was reached.
    """

    def __init__(
        self,
        num_tasks: int,
        steps: int,
        envs_per_task: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(num_tasks, steps, envs_per_task, *shape, device=device)

        self.steps, self.filled = steps, 0
        self.observation, self.next_observation = zeros(observation_size), zeros(observation_size)
        self.action = zeros(action_size)
        self.reward, self.terminated, self.ended, self.success = zeros(), zeros(), zeros(), zeros()

    @property
    def is_full(self) -> bool:
        return self.filled == self.steps

    def add(self, observation: Tensor, action: Tensor, result: StepResult) -> None:
        """Add one step of all environments: observation (T, N, O), action (T, N, A) and the result. At most R fit."""
        place = self.filled
        self.observation[:, place] = observation
        self.action[:, place] = action
        self.reward[:, place] = torch.from_numpy(result.reward)
        self.next_observation[:, place] = torch.from_numpy(result.next_observation)
        self.terminated[:, place] = torch.from_numpy(result.terminated)
        self.ended[:, place] = torch.from_numpy(result.terminated | result.truncated)
        self.success[:, place] = torch.from_numpy(result.success)
        self.filled += 1

    def transitions(self, steps: slice = slice(None)) -> Transitions:
        """The steps, or a slice of them, as one batch with fields (T, steps · N, ..). Its `truncated` is `ended`."""
        *fields, ended = (getattr(self, name)[:, steps].flatten(1, 2) for name in _TRANSITION)
        return Transitions(*fields, truncated=ended)

    def clear(self) -> None:
        """Begin the next rollout."""
        self.filled = 0

    def state_dict(self) -> dict[str, Any]:
        """A copy of the steps taken so far."""
        return {name: getattr(self, name)[:, : self.filled].clone() for name in _FIELDS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.filled = state["reward"].shape[1]
        for name in _FIELDS:
            getattr(self, name)[:, : self.filled] = state[name]
