"""Replay of n-step returns."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl.core.types import Transitions
from mtrl.data.replay import ReplayBuffer


class NStepReplay(ReplayBuffer):
    """A per-task replay of n-step returns (Sutton 1988), as in Rainbow, with no off-policy correction.

    A transition drawn at step t becomes (o_t, a_t, Σ_(i<k) γⁱ r_(t+i), o_(t+k), terminated_(t+k−1), γᵏ). Here k = n, or
    less where the episode terminates or is truncated earlier, or where the newest transition is reached. A row also
    stores whether the episode ended. The rows of N copies alternate in the ring buffer, so the next row of the same
    copy is N places further on, modulo the capacity.
    """

    _scalars: ClassVar[int] = 3

    def __init__(
        self, *sizes: Any, steps: int, discount: float, copies: int, device: torch.device | str = "cpu"
    ) -> None:
        """sizes: the first four arguments of `ReplayBuffer`; steps: n; discount: γ; copies: N environments per task."""
        super().__init__(*sizes, device=device)
        self._copies = copies
        self._steps = torch.arange(steps, device=device)
        self._powers = discount ** torch.arange(steps + 1, device=device, dtype=torch.float64).to(self._rows)
        self._newest = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, transitions: Transitions) -> None:
        """Store one transition from each of the N copies of each task: fields (T, N, ..), including `truncated`.

        Raises:
            ValueError: the number of transitions per task is not N.
        """
        if transitions.reward.shape[1] != self._copies:
            found = transitions.reward.shape[1]
            raise ValueError(f"A step should add {self._copies} transitions a task. Found {found}.")
        super().add(transitions)

    def _fields(self, transitions: Transitions) -> list[Tensor]:
        assert transitions.truncated is not None
        ended = transitions.truncated.bool() | transitions.terminated.bool()
        return [*super()._fields(transitions), ended.unsqueeze(-1)]

    def _resize(self, size: int) -> None:
        super()._resize(size)
        self._newest.fill_(self._position - 1)

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Transitions:
        first = self._draw(batch_size, generator)
        places = (first.unsqueeze(-1) + self._steps * self._copies) % self.capacity
        *_, rewards, _, ended = (part.squeeze(-1) for part in self._gather(places))
        follows = self._steps * self._copies <= ((self._newest - first) % self.capacity).unsqueeze(-1)
        going_on = torch.cat([torch.ones_like(ended[..., :1]), 1 - ended[..., :-1]], -1).cumprod(-1) * follows
        last = going_on.sum(-1).long() - 1
        observation, action, *_ = self._gather(first)
        _, _, next_observation, _, terminated, _ = self._gather(places.gather(-1, last.unsqueeze(-1)).squeeze(-1))
        reward = (rewards * going_on * self._powers[:-1]).sum(-1)
        outcome = (reward, next_observation, terminated.squeeze(-1))
        return Transitions(observation, action, *outcome, discount=self._powers[last + 1])
