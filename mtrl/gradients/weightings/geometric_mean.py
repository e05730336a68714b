"""Geometric mean of the losses, so each counts by its relative change (Chennupati et al. 2019).

With M = (Π L_i)^(1/T) a task has the weight M / (T L_i), times T here so that equal losses have weight 1. Losses must
be positive. They count as at least 10⁻⁸ of the largest, so that a loss of zero gives a finite weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "geometric_mean"


class GeometricMean(Weighting):
    requires_positive_losses = True

    def weights(self, context: Context) -> Tensor:
        losses = context.losses
        smallest = (1e-8 * losses.max()).clamp(min=torch.finfo(losses.dtype).tiny)
        logs = torch.maximum(losses, smallest).log()
        return (logs.mean() - logs).exp()


def build(config: Config, *, num_tasks: int) -> Weighting:
    return GeometricMean()
