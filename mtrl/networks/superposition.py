"""Superposition: a fixed random context of the task multiplies every layer's input (Cheung et al. 2019).

y = W (c_i ⊙ x) + b with c_i drawn once in {-1, +1} (the paper's binary superposition); contexts of different
tasks are nearly orthogonal, so that one matrix holds several tasks' weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, TaskVector, Torso, owned


class SuperposedLinear(nn.Module):
    """A linear layer on c ⊙ x, c a fixed sign per input unit and task."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.context = owned(TaskVector(torch.randint(2, (input_size,)) * 2.0 - 1.0))
        self.linear = Linear(input_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.context(x))


@dataclass
class Config(NetworkConfig):
    kind: str = "superposition"


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso.of(config, input_size, make_linear=lambda _, inputs, outputs: SuperposedLinear(inputs, outputs))
        return nn.Sequential(torso, SuperposedLinear(config.width, output_size))

    return factory
