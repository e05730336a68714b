"""GradNorm: weights that balance the tasks' gradient norms by each task's progress (Chen et al. 2018, Alg. 1).

Let n_i be the norm of ∇L_i, G_i = w_i n_i, and r_i the ratio L_i / L_i(0) divided by the mean ratio of all tasks, where
L(0) are the losses of the first update. w descends Σ_i |G_i − mean(G) r_i^α| with mean(G) r_i^α held fixed, so the
gradient is n_i sign(G_i − mean(G) r_i^α). Adam moves w, which is scaled to sum to the number of tasks after each step.
Differences from the paper: the update from which w is learned already uses the new w; the norms are those of all shared
parameters, not of one layer; and each w_i is raised to at least 10⁻³ before the scaling, where the paper relies on a
small learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.gradients.adam import Adam
from mtrl.gradients.base import Context, Weighting, WeightingConfig

SMALLEST = 1e-3
"""The smallest weight before the weights are scaled."""


@dataclass
class Config(WeightingConfig):
    kind: str = "gradnorm"
    alpha: float = option(1.5, "0 or more")
    """α: how strongly tasks that have made less progress are favoured; 0 for equal gradient norms."""
    learning_rate: float = option(0.025, "0 or more")
    """Adam's learning rate for the weights."""


class GradNorm(Weighting):
    needs_gramian = True
    requires_positive_losses = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        self.alpha = config.alpha
        self.adam = Adam(num_tasks, config.learning_rate)
        self.value = nn.Buffer(torch.ones(num_tasks))
        self.first = nn.Buffer(torch.zeros(num_tasks))

    def update(self, context: Context) -> None:
        assert context.gramian is not None
        losses = context.losses.to(self.first)
        self.first.copy_(torch.where(context.step == 0, losses, self.first))
        tiny = torch.finfo(losses.dtype).tiny
        norms = context.gramian.diagonal().clamp(min=0).sqrt()
        ratios = (losses / self.first.clamp(min=tiny)).double().clamp(max=1e12)
        rates = ratios / ratios.mean().clamp(min=tiny)
        scaled = self.value * norms
        target = scaled.mean() * rates**self.alpha
        # Norms are divided by their mean: Adam's step is the same, and its moments stay in range at every scale.
        self.adam.step(self.value, norms / norms.mean().clamp(min=tiny) * (scaled - target).sign())
        self.value.clamp_(min=SMALLEST)
        self.value.mul_(len(self.value) / self.value.sum())

    def weights(self, context: Context) -> Tensor:
        return self.value


def build(config: Config, *, num_tasks: int) -> Weighting:
    return GradNorm(config, num_tasks)
