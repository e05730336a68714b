"""Smooth Tchebycheff: the largest losses count most (Lin et al. 2024).

The combined loss is μ log Σ_i exp(L_i / (T μ)), with equal preferences 1/T and no ideal point. Its derivatives by the
losses are softmax(L / (T μ)) / T. The weights are these times T², so that equal losses have weight 1. Losses are
compared as they are, so they should have similar scales. They may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mtrl.core.config import option
from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "stch"
    mu: float = option(1.0, "positive")
    """μ: the smaller it is, the more the largest loss dominates."""


class STCH(Weighting):
    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu

    def weights(self, context: Context) -> Tensor:
        tasks = len(context.losses)
        return tasks * (context.losses / (tasks * self.mu)).softmax(0)


def build(config: Config, *, num_tasks: int) -> Weighting:
    return STCH(config.mu)
