"""FAMO: all losses fall at about the same rate, without per-task gradients (Liu et al. 2023, Algorithm 2).

The combined loss is c Σ_i z_i log(L_i + ε) with z = softmax(w), so a task has the weight c z_i / (L_i + ε). The factor
c makes the weights sum to T here, and to 1 in the paper. After the step, Adam moves w against (∂z/∂w)ᵀ δ, where δ_i is
the decrease of log(L_i + ε) on the same batch. Measuring it costs one more forward pass. Losses must be positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.gradients.adam import Adam
from mtrl.gradients.base import Context, Weighting, WeightingConfig

EPSILON = 1e-8


@dataclass
class Config(WeightingConfig):
    kind: str = "famo"
    learning_rate: float = option(0.025, "0 or more")
    """Adam's learning rate for w."""
    weight_decay: float = option(1e-3, "0 or more")
    """Adam's weight decay for w, which pulls towards equal z (the authors' code: 1e-5)."""


class FAMO(Weighting):
    needs_losses_after = True
    requires_positive_losses = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        self.logits = nn.Buffer(torch.zeros(num_tasks))
        self.adam = Adam(num_tasks, config.learning_rate, weight_decay=config.weight_decay)

    def weights(self, context: Context) -> Tensor:
        log_weights = self.logits.log_softmax(0) - _log(context.losses)
        return len(log_weights) * log_weights.softmax(0)

    def after_step(self, before: Tensor, after: Tensor) -> None:
        share = self.logits.softmax(0)
        fall = _log(before) - _log(after)
        self.adam.step(self.logits, share * (fall - torch.dot(share.to(fall), fall)))


def _log(losses: Tensor) -> Tensor:
    return (losses.clamp(min=0) + EPSILON).log()


def build(config: Config, *, num_tasks: int) -> Weighting:
    return FAMO(config, num_tasks)
