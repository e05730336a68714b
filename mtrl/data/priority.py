"""Draws samples uniformly, or by their last loss (prioritised replay, Schaul et al. 2016).

Prioritisation is within each task, as in the Auto-λ paper's baseline: P(i) = p_i^α / Σ_k p_k^α, where p_i is the
sample's last absolute loss plus ε. Losses are weighted by (n P(i))^−β, divided by the largest such weight of the task's
batch, where n is the number of the task's samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def draw_uniform(counts: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw indexes (T, B) uniformly, with replacement, from 0 to each task's count − 1. counts: (T,)."""
    uniform = torch.rand(len(counts), batch_size, dtype=torch.float64, generator=generator)
    return (uniform * counts.unsqueeze(1)).long()


class Priorities:
    """The priorities of each task's samples: 1 until a sample's first `update`."""

    def __init__(self, counts: Tensor, alpha: float, beta: float, epsilon: float = 1e-3) -> None:
        """counts: (T,) int64, the number of samples of each task. alpha, beta, epsilon: α, β and ε (see the module)."""
        self.counts, self.alpha, self.beta, self.epsilon = counts, alpha, beta, epsilon
        filled = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        self._values = filled.double()

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw indexes (T, B) with replacement. Returns them and the weights (T, B) of their losses, in (0, 1]."""
        scaled = self._values.pow(self.alpha) * (self._values > 0)
        cumulative = scaled.cumsum(1)
        total = cumulative[:, -1:]
        uniform = torch.rand(len(scaled), batch_size, dtype=torch.float64, generator=generator)
        index = torch.searchsorted(cumulative, uniform * total, right=True)
        index = torch.minimum(index, self.counts.unsqueeze(1) - 1)
        probability = scaled.gather(1, index) / total
        factor = (self.counts.unsqueeze(1) * probability).pow(-self.beta)
        return index, (factor / factor.amax(1, keepdim=True)).float()

    def update(self, index: Tensor, losses: Tensor) -> None:
        """Set the priorities of the samples `index` (T, B) from their new losses (T, B)."""
        self._values.scatter_(1, index, losses.double().abs() + self.epsilon)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values.copy_(state["values"])
