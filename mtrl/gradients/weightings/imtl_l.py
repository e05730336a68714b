"""IMTL-L: learned scales for the losses, so that scaled losses are alike (Liu et al. 2021, "Towards Impartial ...").

The loss is Σ_i (e^(s_i) L_i − s_i), so a task's weight is e^(s_i); s starts at 0. At the optimum e^(s_i) L_i = 1, so
losses must be positive. Adam updates s before the weights are used; in the paper, s and the network are updated
together.
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
    kind: str = "imtl_l"
    learning_rate: float = option(3e-4, "0 or more")
    """Adam's learning rate for s."""


class IMTLL(Weighting):
    requires_positive_losses = True
    takes_some_tasks = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        self.log_scale = nn.Buffer(torch.zeros(num_tasks))
        self.adam = Adam(num_tasks, config.learning_rate)

    def update(self, context: Context) -> None:
        self.adam.step(self.log_scale, self.log_scale.exp() * context.losses - 1, context.present)

    def weights(self, context: Context) -> Tensor:
        return self.log_scale.exp()


def build(config: Config, *, num_tasks: int) -> Weighting:
    return IMTLL(config, num_tasks)
