"""Uncertainty weighting: divides each loss by a learned variance of its task (Kendall et al. 2018, Eq. 7).

The loss is Σ_i (½ e^(−s_i) L_i + ½ s_i) with s_i = log σ_i². Each s_i starts at −0.7, so that the weight ½ e^(−s_i)
starts near 1. The gradient with respect to s_i is ½ (1 − e^(−s_i) L_i), and Adam follows it. s is updated before the
weights are used; in the paper, s and the network are updated together. At the optimum e^(s_i) = L_i, so losses must be
positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.gradients.adam import Adam
from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "uncertainty"
    learning_rate: float = option(3e-4, "0 or more")
    """Adam's learning rate for s."""
    initial: float = -0.7
    """The initial s of every task."""


class Uncertainty(Weighting):
    requires_positive_losses = True
    takes_some_tasks = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        self.log_variance = nn.Buffer(torch.full((num_tasks,), config.initial))
        self.adam = Adam(num_tasks, config.learning_rate)

    def update(self, context: Context) -> None:
        gradient = 0.5 - 0.5 * (-self.log_variance).exp() * context.losses
        self.adam.step(self.log_variance, gradient, context.present)

    def weights(self, context: Context) -> Tensor:
        return 0.5 * (-self.log_variance).exp()


def build(config: Config, *, num_tasks: int) -> Weighting:
    return Uncertainty(config, num_tasks)
