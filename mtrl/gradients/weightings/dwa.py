"""Dynamic weight average: more weight to tasks whose loss falls slowly (Liu et al. 2019, "End-to-End ...", Eq. 7).

λ_k = T softmax_k(w_k / temperature) with w_k = L_k(t−1) / L_k(t−2), for T tasks, where L_k(t) is the mean loss of epoch
t. As reinforcement learning has no epochs, a window of `window` updates counts as one. The weights are 1 during the
first two windows. Losses should be positive. Where L_k(t−2) is zero, w_k is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "cifar100": {"window": "78"},
        "nyuv2": {"window": "198"},
        "cityscapes": {"window": "743"},
    }
    """One epoch in Auto-λ's comparison: 2,500 images of each task in batches of 32 for CIFAR-100, and 795 (NYUv2) or
    2,975 pictures (CityScapes) in batches of 4."""
    kind: str = "dwa"
    temperature: float = option(2.0, "positive")
    """Temperature of the softmax; the larger it is, the more alike the weights."""
    window: int = option(1000, "a positive integer")
    """The number of updates over which losses are averaged, in place of an epoch."""


class DWA(Weighting):
    requires_positive_losses = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        self.temperature, self.window = config.temperature, config.window
        self.total = nn.Buffer(torch.zeros(num_tasks))
        self.history = nn.Buffer(torch.zeros(2, num_tasks))
        self.updates = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def update(self, context: Context) -> None:
        ended = (self.updates > 0) & (self.updates % self.window == 0)
        newest = torch.stack([self.history[1], self.total / self.window])
        self.history.copy_(torch.where(ended, newest, self.history))
        self.total.copy_(torch.where(ended, 0.0, self.total) + context.losses)
        self.updates += 1

    def weights(self, context: Context) -> Tensor:
        older, newer = self.history
        rates = torch.where(older != 0, newer / torch.where(older != 0, older, 1.0), 1.0)
        weights = len(rates) * (rates / self.temperature).softmax(0)
        return torch.where(self.updates > 2 * self.window, weights, 1.0)


def build(config: Config, *, num_tasks: int) -> Weighting:
    return DWA(config, num_tasks)
