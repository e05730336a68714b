"""Superposition: each task transforms every layer's input by its own fixed random matrix (Cheung et al. 2019).

y = W C_i x + b, with C_i drawn once for each task i and layer, so that one matrix W holds the weights of all tasks. In
rotational superposition, C_i is a uniformly random orthogonal matrix. In binary superposition, it is a diagonal matrix
of random signs. The Mint paper compares with the rotational form. The C_i are stored as buffers: for a layer with n
inputs, T n² numbers (rotational) or T n (binary).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, TaskVector, Torso, linear, owned


class Rotation(nn.Module):
    """Multiplies x by a fixed random orthogonal matrix (size, size)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.value = nn.Buffer(nn.init.orthogonal_(torch.empty(size, size)))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.value)


class Signs(TaskVector):
    """Multiplies each of `size` inputs by a fixed random sign."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.randint(2, (size,)) * 2.0 - 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x)


class SuperposedLinear(nn.Module):
    """A linear layer on C x, where C is the task's fixed random matrix (the paper calls it the context)."""

    def __init__(self, input_size: int, output_size: int, context: str) -> None:
        super().__init__()
        self.context = owned(Rotation(input_size) if context == "rotational" else Signs(input_size))
        self.linear = Linear(input_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.context(x))


@dataclass
class Config(NetworkConfig):
    kind: str = "superposition"
    context: str = option("rotational", ("rotational", "binary"))
    """What multiplies each layer's input: a random orthogonal matrix (rotational) or random signs (binary)."""


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        def make_linear(_: int, inputs: int, outputs: int) -> nn.Module:
            return SuperposedLinear(inputs, outputs, config.context)

        torso = Torso.of(config, input_size, make_linear=make_linear)
        return nn.Sequential(torso, make_linear(config.depth, config.width, output_size))

    return factory
