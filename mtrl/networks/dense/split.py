"""Split: a dilated ResNet that all tasks share, and a head for each task (the Auto-λ paper's "Split")."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory
from mtrl.networks.dense.resnet import DenseConfig, enlarged, head, stage_channels, stages
from mtrl.networks.layers import owned


@dataclass
class Config(DenseConfig):
    kind: str = "split"


class Split(nn.Module):
    """Pictures (.., B, C, H, W) -> (.., B, outputs, H, W)."""

    def __init__(self, config: Config, image_channels: int, outputs: int) -> None:
        super().__init__()
        stem, blocks = stages(config, image_channels)
        self.trunk = nn.Sequential(stem, *itertools.chain(*blocks))
        self.head = owned(head(config, stage_channels(config)[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(self.head(self.trunk(x)), x.shape[-2:])


def build(config: Config, *, image_channels: int, outputs: int) -> Factory:
    return lambda code: Split(config, image_channels, outputs)
