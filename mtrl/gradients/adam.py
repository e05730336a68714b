"""Adam for the few numbers that a weighting learns, with its moments in buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adam(nn.Module):
    """Kingma & Ba 2015, Algorithm 1, on one vector (n,); weight decay is an L2 term in the gradient.

    It computes what `torch.optim.Adam` does. Its state is in buffers, so that a weighting's `state_dict` contains it,
    and in float64, because squares of large losses overflow float32. Each element counts its own steps.
    """

    def __init__(
        self, size: int, learning_rate: float, *, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__()
        self.learning_rate, self.weight_decay, self.betas, self.eps = learning_rate, weight_decay, betas, 1e-8
        self.mean, self.square, self.steps = (nn.Buffer(torch.zeros(size, dtype=torch.float64)) for _ in range(3))

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor, active: Tensor | None = None) -> None:
        """Move `values` (n,) in place against `gradient` (n,).

        Elements where `active` (n,) bool is false keep their values, moments and numbers of steps; all are active if it
        is not given.
        """
        gradient = gradient.to(self.mean) + self.weight_decay * values
        rate = torch.ones_like(self.mean) if active is None else active.to(self.mean)
        self.mean.add_(rate * (1 - self.betas[0]) * (gradient - self.mean))
        self.square.add_(rate * (1 - self.betas[1]) * (gradient.square() - self.square))
        self.steps.add_(rate)
        mean = self.mean / (1 - self.betas[0] ** self.steps.clamp(min=1))
        square = self.square / (1 - self.betas[1] ** self.steps.clamp(min=1))
        values.sub_(rate * self.learning_rate * mean / (square.sqrt() + self.eps))
