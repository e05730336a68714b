"""Equal weights: the weight of every task's loss is 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.gradients.base import Context, Weighting


@dataclass
class Config:
    kind: str = "equal"


class Equal(Weighting):
    takes_some_tasks = True

    def weights(self, context: Context) -> Tensor:
        return torch.ones_like(context.losses)


def build(config: Config, *, num_tasks: int) -> Weighting:
    return Equal()
