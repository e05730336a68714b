"""Random weights, new ones in every update: a sobering baseline (Lin et al. 2022, RLW, Algorithm 2).

λ = softmax(z), z standard normal, times T here so that the weights' mean is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "random"


class RandomWeights(Weighting):
    takes_some_tasks = True

    def weights(self, context: Context) -> Tensor:
        losses = context.losses
        draw = torch.randn(losses.shape, device=losses.device, dtype=losses.dtype, generator=context.generator)
        return context.softmax(draw)


def build(config: Config, *, num_tasks: int) -> Weighting:
    return RandomWeights()
