"""MTAN: each task attends to the features of a shared ResNet, stage by stage (Liu, Johns & Davison 2019).

This follows the Auto-λ paper's code for a dilated ResNet. In each stage, a task multiplies the features of the last
block by a mask. Two 1×1 convolutions compute the mask from the features before the last block and from the task's
attended features of the stage before. Between two stages the attended features pass through a bottleneck that the tasks
share; the first bottleneck is followed by a 2×2 pool. The fourth stage's attended features go to the task's head. A
task owns its masks and its head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.networks.base import Factory
from mtrl.networks.dense.resnet import (
    EXPANSION,
    DenseConfig,
    Residual,
    block,
    enlarged,
    head,
    merged,
    stage_channels,
    stages,
)
from mtrl.networks.layers import owned


@dataclass
class Config(DenseConfig):
    kind: str = "mtan"


def _mask(inputs: int, outputs: int) -> nn.Module:
    """A task's attention mask: a number between 0 and 1 for each channel and pixel."""
    width = max(outputs // 4, 1)
    return nn.Sequential(*block(inputs, width, 1), nn.ReLU(inplace=True), *block(width, outputs, 1), nn.Sigmoid())


def _halved(x: Tensor) -> Tensor:
    """Halve each side by pooling, as the stride of the next stage does."""
    return merged(lambda rows: F.max_pool2d(rows, 2, ceil_mode=True), x)


class MTAN(nn.Module):
    """(.., B, C, H, W) -> (.., B, outputs, H, W)."""

    def __init__(self, config: Config, image_channels: int, outputs: int) -> None:
        super().__init__()
        channels = stage_channels(config)
        stem, blocks = stages(config, image_channels)
        self.stem = stem
        self.stages = nn.ModuleList([nn.Sequential(*found[:-1]) for found in blocks])
        self.lasts = nn.ModuleList([found[-1] for found in blocks])
        carried = [0, *(self._carried(after) for after in channels[1:])]
        pairs = zip(channels, carried, strict=True)
        self.masks = nn.ModuleList([owned(_mask(count + before, count)) for count, before in pairs])
        between = zip(channels, carried[1:], strict=False)
        self.between = nn.ModuleList([Residual(n, after // EXPANSION, bottleneck=True) for n, after in between])
        self.head = owned(head(config, channels[-1], outputs))

    @staticmethod
    def _carried(channels: int) -> int:
        """The number of channels of the attended features before a stage with `channels` channels."""
        return EXPANSION * max(channels // EXPANSION, 1)

    def forward(self, x: Tensor) -> Tensor:
        features, attended = self.stem(x), None
        for number, (stage, last, mask) in enumerate(zip(self.stages, self.lasts, self.masks, strict=True)):
            before = stage(features)
            features = last(before)
            seen = before
            if attended is not None:
                seen = torch.cat([before.expand(*attended.shape[:-3], *before.shape[-3:]), attended], -3)
            attended = mask(seen) * features
            if number < len(self.between):
                attended = self.between[number](attended)
                attended = _halved(attended) if number == 0 else attended
        assert attended is not None
        return enlarged(self.head(attended), x.shape[-2:])


def build(config: Config, *, image_channels: int, outputs: int) -> Factory:
    return lambda code: MTAN(config, image_channels, outputs)
