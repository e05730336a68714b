"""GradDrop: each parameter follows the tasks of one sign, drawn at random (Chen et al. 2020, Algorithm 1).

For each element of a parameter, let P = ½ (1 + Σ_i g_i / Σ_i |g_i|), and let u be uniform in [0, 1]. The update sums
the positive g_i where P > u and the negative ones where P < u. A share `leak` of every gradient is never dropped. Where
all gradients are zero, so is the update. The paper drops gradients with respect to the activations of one shared
layer; here the method acts on all shared parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.core.config import option
from mtrl.gradients.algebra import like
from mtrl.gradients.base import Surgery, SurgeryConfig


@dataclass
class Config(SurgeryConfig):
    kind: str = "graddrop"
    leak: float = option(0.0, "in [0, 1]")
    """The share of every gradient that is never dropped."""


class GradDrop(Surgery):
    def __init__(self, leak: float) -> None:
        super().__init__()
        self.leak = leak

    def combine(
        self, gradients: Tensor, coefficients: Tensor, weights: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        gradients = gradients * like(weights, gradients)
        size = gradients.abs().sum(0)
        total = gradients.sum(0)
        draw = torch.rand(size.shape, device=size.device, dtype=size.dtype, generator=generator)
        # P > u as Σ g > (2u − 1) Σ |g|, which needs no division.
        threshold = (2 * draw - 1) * size
        sign = (total > threshold).to(size) - (total < threshold).to(size)
        kept = torch.where(gradients.sign() == sign, gradients, 0.0).sum(0)
        return self.leak * total + (1 - self.leak) * kept


def build(config: Config, *, num_tasks: int) -> Surgery:
    return GradDrop(config.leak)
