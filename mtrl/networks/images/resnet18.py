"""ResNet-18 with hard sharing: a trunk of residual blocks for small images and a linear head per task (He et al. 2016).

This is the form that multi-task papers use for CelebA's 64×64 images (Sener & Koltun 2018): a first 3×3 convolution
without pooling, four stages of which the last three halve the image, and 4×4 mean pooling of the last 8×8 pixels.
`dropout` is a part of the regularisation of Kurin et al. 2022, which has weight decay, too. It drops channels between
the two convolutions of each block, and features before the heads. Channels after the network's first convolution are
dropped at half the rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import Options, option
from mtrl.networks.base import Factory
from mtrl.networks.convolution import BatchNorm, ChannelDropout, Conv2d
from mtrl.networks.layers import Linear, owned

STAGES = 4


@dataclass
class Config(Options):
    option_group: ClassVar[str] = "network"
    kind: str = "resnet18"
    width: int = option(64, "a positive integer")
    """Channels of the first stage. Each later stage has twice as many as the one before."""
    blocks: int = option(2, "a positive integer")
    """Residual blocks of each stage."""
    dropout: float = option(0.0, "in [0, 1)")
    """Rate at which training drops channels in each block and features before the heads."""
    last_pixels: int = option(2, "a positive integer")
    """Pixels along a side of the last mean pooling's output. The heads see the features of all of them."""


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(Conv2d(inputs, outputs, stride=stride), BatchNorm(outputs), nn.ReLU(inplace=True))
        self.second = nn.Sequential(ChannelDropout(dropout), Conv2d(outputs, outputs), BatchNorm(outputs))
        same = stride == 1 and inputs == outputs
        projection = [] if same else [Conv2d(inputs, outputs, size=1, stride=stride), BatchNorm(outputs)]
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class LastPool(nn.Module):
    """The means of n × n parts of an image: (.., B, C, H, W) -> (.., B, C, n, n)."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.flatten(0, -4), self.pixels).unflatten(0, x.shape[:-3])


def _trunk(config: Config, channels: int) -> Iterator[nn.Module]:
    yield from (Conv2d(channels, config.width), BatchNorm(config.width), nn.ReLU(inplace=True))
    yield ChannelDropout(config.dropout / 2)
    inputs = config.width
    for stage in range(STAGES):
        for block in range(config.blocks):
            outputs = config.width * 2**stage
            yield Block(inputs, outputs, 2 if stage and not block else 1, config.dropout)
            inputs = outputs
    yield from (LastPool(config.last_pixels), nn.Flatten(-3), nn.Dropout(config.dropout))


def trunk_size(config: Config, image_shape: tuple[int, int, int]) -> int:
    """The number of features in the trunk's output, whatever the image's size."""
    return config.width * 2 ** (STAGES - 1) * config.last_pixels**2


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int | None) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        trunk = _trunk(config, image_shape[0])
        if output_size is None:
            return nn.Sequential(*trunk)
        return nn.Sequential(*trunk, owned(Linear(trunk_size(config, image_shape), output_size)))

    return factory
