"""The parts of networks for dense prediction: a dilated ResNet, and DeepLab's heads (atrous spatial pyramid pooling).

The ResNet is that of He et al. 2015, except that a bottleneck's stride is in its 3×3 convolution. The head is that of
Chen et al. 2017. Both compute the same as torchvision's networks. Torchvision's own are not used, because they have no
dilated ResNet-18 and no task axis, and because trial steps would change the statistics of their batch norms. The last
two stages dilate their filters instead of downsampling. By default, the features therefore have an eighth of the
picture's height and width.
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
"""Depth of the network -> the number of residual blocks in each stage. From 50 layers on, blocks are bottlenecks."""
CHANNELS = (64, 128, 256, 512)
"""Channels of the 3×3 convolutions in each stage."""
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
"""Stride of the first block, and dilation of the filters, in each stage. The convolution with the stride has the
dilation of the stage before, as in torchvision."""
EXPANSION = 4
"""A bottleneck's output has this many times the channels of its 3×3 convolution."""


@dataclass
class DenseConfig(Options):
    """Options of all networks for dense prediction. The default sizes are those of the Auto-λ paper."""

    option_group: ClassVar[str] = "network"

    depth: str = option("50", tuple(BLOCKS))
    """Layers of the ResNet: 18, 34, 50 or 101."""
    scale: float = option(1.0, "in (0, 4]")
    """Factor by which all channel counts of the ResNet are multiplied; less than 1 suits small pictures or machines."""
    stem_stride: str = option("4", ("1", "2", "4"))
    """Factor by which the layers before the first stage downsample a picture: 4 in a ResNet. For small pictures, 2
    leaves out the pool, and 1 also the first convolution's stride. The second stage downsamples once more, by 2."""
    head_width: int = option(256, "a positive integer")
    """Channels within each task's head."""
    rates: list[int] = field(default_factory=lambda: [12, 24, 36])
    """Dilations of the filters in a head's pyramid; small pictures need smaller ones."""
    dropout: float = option(0.5, "in [0, 1)")
    """Dropout rate of the features that the pyramid gives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.rates) and min(self.rates) >= 1, "network.rates", "positive integers", self.rates)


def block(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A convolution of `size` × `size` filters without a bias, and a batch norm."""
    return [Conv2d(inputs, outputs, size, stride=stride, dilation=dilation), BatchNorm(outputs)]


class Residual(nn.Module):
    """A residual block: two 3×3 convolutions, or, in a bottleneck, convolutions of 1×1, 3×3 and 1×1."""

    def __init__(
        self, inputs: int, width: int, *, bottleneck: bool, stride: int = 1, dilation: int = 1, inner: int = 1
    ) -> None:
        """Make the block.

        Args:
            inputs: channels of the input.
            width: channels of the 3×3 convolutions.
            inner: dilation of the 3×3 convolution that has the stride.
            dilation: dilation of the other 3×3 convolution; without effect in a bottleneck, which has only one.
        """
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
    """The layers before the first stage: a 7×7 convolution and, with a stride of 4, max pooling."""

    def __init__(self, config: DenseConfig, image_channels: int, outputs: int) -> None:
        super().__init__()
        stride = int(config.stem_stride)
        self.layers = nn.Sequential(*block(image_channels, outputs, 7, stride=min(stride, 2)), nn.ReLU(inplace=True))
        self.pooled = stride == 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        return merged(lambda rows: F.max_pool2d(rows, 3, 2, 1), x) if self.pooled else x


def stage_channels(config: DenseConfig) -> list[int]:
    """Channels of the outputs of the four stages."""
    expansion = EXPANSION if int(config.depth) >= 50 else 1
    return [max(1, round(channels * config.scale)) * expansion for channels in CHANNELS]


def stages(config: DenseConfig, image_channels: int) -> tuple[Stem, list[list[nn.Module]]]:
    """The layers before the first stage, and the blocks of each of the four stages."""
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
    """Atrous spatial pyramid pooling: (.., B, inputs, h, w) -> (.., B, head_width, h, w).

    A 1×1 convolution, 3×3 convolutions of several dilations and the mean over all pixels run in parallel. A 1×1
    convolution joins them.
    """

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
    """A task's head, (.., B, inputs, h, w) -> (.., B, outputs, h, w): pyramid, 3×3 convolution, 1×1 convolution."""
    width = config.head_width
    layers = [*block(width, width), nn.ReLU(inplace=True), Conv2d(width, outputs, 1, bias=True)]
    return nn.Sequential(Pyramid(config, inputs), *layers)


def merged(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of images (B, C, H, W) to x (.., B, C, H, W)."""
    return function(x.flatten(0, -4)).unflatten(0, x.shape[:-3])


def enlarged(x: Tensor, pixels: torch.Size) -> Tensor:
    """Resize x (.., B, K, h, w) to (.., B, K, H, W), pixels = (H, W), bilinearly with aligned corners."""
    return merged(lambda rows: F.interpolate(rows, pixels, mode="bilinear", align_corners=True), x)
