"""Random weights, drawn anew in every update: a baseline for other weightings (Lin et al. 2022, RLW, Algorithm 2).

λ = softmax(z) with z standard normal, or λ = z / Σ z with z standard exponential, which is the flat Dirichlet
distribution. Both are multiplied by the number of tasks in the batch here, so that the weights' mean is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.core.config import option
from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "random"
    distribution: str = option("normal", ("normal", "dirichlet"))
    """The distribution of the weights: normal (a softmax of normal draws) or dirichlet."""


class RandomWeights(Weighting):
    takes_some_tasks = True

    def __init__(self, distribution: str) -> None:
        super().__init__()
        self.distribution = distribution

    def weights(self, context: Context) -> Tensor:
        losses = context.losses
        draw = torch.randn if self.distribution == "normal" else torch.rand
        z = draw(losses.shape, device=losses.device, dtype=losses.dtype, generator=context.generator)
        if self.distribution == "dirichlet":
            z = (-torch.log1p(-z)).clamp(1e-9).log()  # of an exponential draw, for softmax; `rand` may draw 0
        return context.softmax(z)


def build(config: Config, *, num_tasks: int) -> Weighting:
    return RandomWeights(config.distribution)
