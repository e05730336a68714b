"""The Mint paper's small convolutional network. A task owns its output layer and, as an option, earlier layers.

Mint paper, App. B: three convolutions with 160 3×3 filters, each followed by max pooling and batch norm, then two fully
connected layers of 320 units. `owned` chooses one of the paper's baselines: head (task-specific-1-fc), fc
(task-specific-all-fc) or all (independent). Batch norm comes before the activation, as usual; the paper leaves this
open.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mtrl.core.config import Options, option
from mtrl.networks.base import Factory
from mtrl.networks.convolution import Pool, conv_block, pooled_size
from mtrl.networks.layers import Linear, owned


@dataclass
class ConvConfig(Options):
    """Options of all variants of the small network."""

    option_group: ClassVar[str] = "network"

    width: int = option(160, "a positive integer")
    """Filters of each convolution."""
    depth: int = option(3, "a positive integer")
    """Number of convolutions, each followed by 2×2 max pooling."""
    fc_width: int = option(320, "a positive integer")
    """Units of each hidden linear layer."""
    fc_depth: int = option(2, "0 or more")
    """Number of hidden linear layers."""
    batch_norm: str = option("shared", ("task", "shared"))
    """Whether each task has its own scale and shift (task), or all tasks share them (shared). Statistics are always
    each task's own."""


@dataclass
class Config(ConvConfig):
    kind: str = "conv"
    owned: str = option("head", ("head", "fc", "all"))
    """The layers that each task owns: head (the output layer), fc (all linear layers), or all."""


def convolutions(config: ConvConfig, image_shape: tuple[int, int, int]) -> tuple[list[nn.Module], int]:
    """The convolutional part, (.., B, C, H, W) -> (.., B, features), and its number of features."""
    layers: list[nn.Module] = []
    inputs, height, width = image_shape
    for _ in range(config.depth):
        layers += [*conv_block(inputs, config.width, task_norm=config.batch_norm == "task"), Pool()]
        inputs = config.width
    pixels = pooled_size(height, config.depth) * pooled_size(width, config.depth)
    return [*layers, nn.Flatten(-3)], config.width * pixels


def fully_connected(config: ConvConfig, inputs: int) -> list[nn.Module]:
    """The hidden linear layers, each followed by a ReLU: (.., B, inputs) -> (.., B, fc_width)."""
    sizes = [inputs, *[config.fc_width] * config.fc_depth]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [Linear(before, after), nn.ReLU(inplace=True)]
    return layers


def trunk_size(config: ConvConfig, image_shape: tuple[int, int, int]) -> int:
    """The number of features that the output layer sees, which are the output of the trunk."""
    return config.fc_width if config.fc_depth else convolutions(config, image_shape)[1]


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int | None) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        conv, inputs = convolutions(config, image_shape)
        hidden = fully_connected(config, inputs)
        if output_size is None:
            return nn.Sequential(*conv, *hidden)
        head = Linear(trunk_size(config, image_shape), output_size)
        parts = [nn.Sequential(*conv), nn.Sequential(*hidden), head]
        first = {"head": 2, "fc": 1, "all": 0}[config.owned]
        return nn.Sequential(*parts[:first], *(owned(part) for part in parts[first:]))

    return factory
