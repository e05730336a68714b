"""Draws samples uniformly, or by their last loss (prioritised replay, Schaul et al. 2016).

Prioritisation is within each task, as in the Auto-λ paper's baseline: P(i) = p_i^α / Σ_k p_k^α, where p_i is the
sample's last loss plus ε. Losses are weighted by (n P(i))^−β, divided by the largest such weight of the task's batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def draw_uniform(counts: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw indexes (T, B), uniformly and with replacement, below each task's count. counts (T,)."""
    uniform = torch.rand(len(counts), batch_size, dtype=torch.float64, generator=generator)
    return (uniform * counts.unsqueeze(1)).long()


class Priorities:
    """The priorities of each task's samples: 1 until a sample has first been drawn."""

    def __init__(self, counts: Tensor, alpha: float, beta: float, epsilon: float = 1e-3) -> None:
        """counts (T,): samples of each task."""
        self.counts, self.alpha, self.beta, self.epsilon = counts, alpha, beta, epsilon
        filled = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        self._values = filled.double()

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw indexes (T, B), and return them with the factors (T, B) of their losses."""
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
        """Set priorities from the new losses (T, B) of the samples `index` (T, B)."""
        self._values.scatter_(1, index, losses.double().abs() + self.epsilon)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values.copy_(state["values"])
