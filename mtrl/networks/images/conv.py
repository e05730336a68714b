"""The Mint paper's small convolutional network. A task owns its output layer and, by choice, earlier layers.

Mint paper, App. B: three layers of 160 3×3 filters, each followed by max pooling and batch norm, then two fully
connected layers of 320. `owned` chooses one of the paper's baselines: head (task-specific-1-fc), fc
(task-specific-all-fc) or all (independent). Batch norm comes before the activation, as usual; the paper does not say.
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
    """Convolutions, each with a 2×2 pool."""
    fc_width: int = option(320, "a positive integer")
    """Units of each hidden linear layer."""
    fc_depth: int = option(2, "0 or more")
    """Hidden linear layers."""
    batch_norm: str = option("shared", ("task", "shared"))
    """Scale and shift: one for each task (task), or one for all (shared). Each task always has its own statistics."""


@dataclass
class Config(ConvConfig):
    kind: str = "conv"
    owned: str = option("head", ("head", "fc", "all"))
    """The layers that every task owns: head (the last one), fc (all linear layers), or all."""


def convolutions(config: ConvConfig, image_shape: tuple[int, int, int]) -> tuple[list[nn.Module], int]:
    """The convolutional part, and the number of features of its output."""
    layers: list[nn.Module] = []
    inputs, height, width = image_shape
    for _ in range(config.depth):
        layers += [*conv_block(inputs, config.width, task_norm=config.batch_norm == "task"), Pool()]
        inputs = config.width
    pixels = pooled_size(height, config.depth) * pooled_size(width, config.depth)
    return [*layers, nn.Flatten(-3)], config.width * pixels


def fully_connected(config: ConvConfig, inputs: int) -> list[nn.Module]:
    sizes = [inputs, *[config.fc_width] * config.fc_depth]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [Linear(before, after), nn.ReLU(inplace=True)]
    return layers


def trunk_size(config: ConvConfig, image_shape: tuple[int, int, int]) -> int:
    """Features of the trunk's output."""
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
