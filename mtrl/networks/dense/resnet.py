"""The parts of networks for dense prediction: a dilated ResNet, and DeepLab's heads (atrous spatial pyramid pooling).

The ResNet is that of He et al. 2015 with the stride of a bottleneck in its 3×3 convolution; the head is that of Chen et
al. 2017. Both compute what torchvision's networks do. Those are not used, because torchvision has no dilated ResNet-18
and no task axis, and trial steps would change the statistics of its batch norms. The last two stages dilate their
filters instead of shrinking the image, so each side of the features has an eighth of the picture's pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import Options, check, option
from mtrl.networks.convolution import BatchNorm, Conv2d

BLOCKS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}
"""Residual blocks of the four stages, by the number of layers. From 50 layers on, they are bottlenecks."""
CHANNELS = (64, 128, 256, 512)
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
EXPANSION = 4
"""A bottleneck's output has this many times the channels of its 3×3 convolution."""


@dataclass
class DenseConfig(Options):
    """Options of all networks for dense prediction. The default sizes are those of the Auto-λ paper."""

    option_group: ClassVar[str] = "network"

    depth: str = option("50", tuple(BLOCKS))
    """Which ResNet: 18, 34, 50 or 101 layers."""
    scale: float = option(1.0, "in (0, 4]")
    """Factor of the ResNet's numbers of channels: less than 1 for small pictures or machines."""
    stem_stride: str = option("4", ("1", "2", "4"))
    """What the first layers divide each side of a picture by: 4 in a ResNet. For small pictures, 2 leaves out the pool,
    and 1 also the first convolution's stride. The second stage halves the sides once more."""
    head_width: int = option(256, "a positive integer")
    """Channels within each task's head."""
    rates: list[int] = field(default_factory=lambda: [12, 24, 36])
    """Dilations of the filters in a head's pyramid; small pictures need smaller ones."""
    dropout: float = option(0.5, "in [0, 1)")
    """Share of the pyramid's features that are dropped in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.rates) and min(self.rates) >= 1, "network.rates", "positive integers", self.rates)


def block(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    return [Conv2d(inputs, outputs, size, stride=stride, dilation=dilation), BatchNorm(outputs)]


class Residual(nn.Module):
    """A residual block: two 3×3 convolutions, or, as a bottleneck, 1×1, 3×3 and 1×1."""

    def __init__(
        self, inputs: int, width: int, *, bottleneck: bool, stride: int = 1, dilation: int = 1, inner: int = 1
    ) -> None:
        """dilation: that of the block's filters; inner: that of the convolution that may have a stride."""
        super().__init__()
        relu = nn.ReLU(inplace=True)
        middle = {"stride": stride, "dilation": inner}
        if bottleneck:
            layers = [*block(inputs, width, 1), relu, *block(width, width, **middle), relu]
            layers += block(width, EXPANSION * width, 1)
        else:
            layers = [*block(inputs, width, **middle), relu, *block(width, width, dilation=dilation)]
        outputs = width * (EXPANSION if bottleneck else 1)
        same = inputs == outputs and stride == 1
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if same else nn.Sequential(*block(inputs, outputs, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x), inplace=True)


class Stem(nn.Module):
    """The layers before the first stage."""

    def __init__(self, config: DenseConfig, image_channels: int, outputs: int) -> None:
        super().__init__()
        strides = int(config.stem_stride)
        self.layers = nn.Sequential(*block(image_channels, outputs, 7, stride=min(strides, 2)), nn.ReLU(inplace=True))
        self.pooled = strides == 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        return merged(lambda rows: F.max_pool2d(rows, 3, 2, 1), x) if self.pooled else x


def stage_channels(config: DenseConfig) -> list[int]:
    """Channels of the outputs of the four stages."""
    expansion = EXPANSION if int(config.depth) >= 50 else 1
    return [max(1, round(channels * config.scale)) * expansion for channels in CHANNELS]


def stages(config: DenseConfig, image_channels: int) -> tuple[Stem, list[list[nn.Module]]]:
    """The layers before the four stages, and the blocks of each stage."""
    bottleneck = int(config.depth) >= 50
    widths = [max(1, round(channels * config.scale)) for channels in CHANNELS]
    inputs, before, found = widths[0], 1, []
    for width, outputs, count, stride, dilation in zip(
        widths, stage_channels(config), BLOCKS[config.depth], STRIDES, DILATIONS, strict=True
    ):
        blocks: list[nn.Module] = []
        for number in range(count):
            first = {"stride": stride, "inner": before} if number == 0 else {"inner": dilation}
            blocks.append(Residual(inputs, width, bottleneck=bottleneck, dilation=dilation, **first))
            inputs = outputs
        found.append(blocks)
        before = dilation
    return Stem(config, image_channels, widths[0]), found


class Pyramid(nn.Module):
    """Filters of several dilations, a 1×1 filter and the mean of all pixels in parallel, then one 1×1 convolution."""

    def __init__(self, config: DenseConfig, inputs: int) -> None:
        super().__init__()
        width, relu = config.head_width, nn.ReLU(inplace=True)
        branches = [nn.Sequential(*block(inputs, width, 1), relu)]
        branches += [nn.Sequential(*block(inputs, width, dilation=rate), relu) for rate in config.rates]
        self.branches = nn.ModuleList(branches)
        self.whole = nn.Sequential(*block(inputs, width, 1), relu)
        joined = width * (len(branches) + 1)
        self.project = nn.Sequential(*block(joined, width, 1), relu, nn.Dropout(config.dropout))

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        whole = self.whole(x.mean((-2, -1), keepdim=True)).expand_as(found[0])
        return self.project(torch.cat([*found, whole], -3))


def head(config: DenseConfig, inputs: int, outputs: int) -> nn.Module:
    """A task's head: pyramid, 3×3 convolution, 1×1 convolution."""
    width = config.head_width
    layers = [*block(width, width), nn.ReLU(inplace=True), Conv2d(width, outputs, 1, bias=True)]
    return nn.Sequential(Pyramid(config, inputs), *layers)


def merged(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of images (B, C, H, W) to (.., B, C, H, W)."""
    return function(x.flatten(0, -4)).unflatten(0, x.shape[:-3])


def enlarged(x: Tensor, pixels: torch.Size) -> Tensor:
    """(.., B, K, h, w) -> (.., B, K, H, W), bilinear with aligned corners."""
    return merged(lambda rows: F.interpolate(rows, pixels, mode="bilinear", align_corners=True), x)
