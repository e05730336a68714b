"""Cosine regularisation: a penalty that pushes task gradients to be orthogonal (Suteu & Guo 2019).

The loss gains strength · mean_(i<j) cos²(∇L_i, ∇L_j) over the shared parameters. It is differentiated through the
gradients, so an update costs a second backward pass. The gradients themselves are summed as they are. The cosines of a
zero gradient count as zero. The paper sums over pairs; here their mean gives `strength` the same meaning for any number
of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.core.config import option
from mtrl.gradients.base import Surgery, SurgeryConfig


@dataclass
class Config(SurgeryConfig):
    kind: str = "cosine_regularization"
    strength: float = option(0.1, "0 or more")
    """Factor of the mean squared cosine in the loss."""


class CosineRegularization(Surgery):
    has_penalty = True

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def penalty(self, gramian: Tensor) -> Tensor:
        # cos² = G_ij² / (G_ii G_jj) needs no root, whose derivative is infinite at zero. G is first divided by detached
        # norms, so that squares of large or small gradients stay in range.
        norms = gramian.detach().diagonal().clamp(min=0).sqrt()
        inverse = torch.where(norms > 0, 1 / torch.where(norms > 0, norms, 1.0), 0.0)
        scaled = gramian * inverse.unsqueeze(0) * inverse.unsqueeze(1)
        squares = torch.where(norms > 0, scaled.diagonal(), 1.0)
        cosines = scaled.square() / (squares.unsqueeze(0) * squares.unsqueeze(1))
        pairs = max(len(gramian) * (len(gramian) - 1) // 2, 1)
        return self.strength * cosines.triu(1).sum() / pairs


def build(config: Config, *, num_tasks: int) -> Surgery:
    return CosineRegularization(config.strength)
