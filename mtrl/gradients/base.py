"""What a gradient method is, and what it may see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass
class Context:
    """What a weighting sees of one update. Nothing in it is connected to a graph."""

    losses: Tensor
    """(T,)"""
    step: Tensor
    """() int64: updates done before this one."""
    primary: Tensor
    """(T,) bool: the tasks that count; all by default."""
    gramian: Tensor | None = None
    """(T, T): inner products of the unweighted gradients of the shared parameters, where asked for."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What the learner adds, such as log_alpha (T,)."""
    look_ahead: Callable[[Tensor], Tensor] | None = None
    """Weights (T,) -> d(primary loss after a step with these weights)/d(weights), where asked for."""


class Weighting(nn.Module):
    """Scales the losses. All of its state is parameters and buffers, so that `state_dict` holds it."""

    needs_gramian: ClassVar[bool] = False
    needs_look_ahead: ClassVar[bool] = False
    requires_positive_losses: ClassVar[bool] = False

    def update(self, context: Context) -> None:
        """Learn from this update's losses and gradients, before the weights are asked for."""

    def weights(self, context: Context) -> Tensor:
        """The factor of each task's loss, (T,)."""
        raise NotImplementedError


class Surgery(nn.Module):
    """Chooses a linear combination of the task gradients from their inner products alone."""

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        """The randomness that one call of `coefficients` uses, or None."""
        return None

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        """gramian (T, T) float64 -> (T,): the shared gradient becomes Σ_i c_i g_i, times the reduction's factor."""
        raise NotImplementedError
