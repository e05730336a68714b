"""Cross-stitch networks on the small convolutional network: one column of linear layers per task, stitched together.

Misra et al. 2016 in the form of Rosenbaum et al. 2018 ("cross-stitch-all-fc", the Mint paper's baseline). After the
shared convolutions, every image runs through the columns of all tasks. After each hidden layer, the columns exchange
features, x_j ← Σ_k α_jk x_k. Each task reads its own column's output. Initially, α has `own_share` on its diagonal, and
the other entries of a row share the rest equally.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory
from mtrl.networks.columns import ColumnLinear, mixed
from mtrl.networks.images.conv import ConvConfig, convolutions
from mtrl.networks.layers import TaskCode, owned


@dataclass
class Config(ConvConfig):
    kind: str = "conv_cross_stitch"
    own_share: float = option(0.9, "in [0, 1]")
    """Initial value of α_jj. The other entries of a row share the rest equally."""


class Stitch(nn.Module):
    """Mixes the features of K columns. matrix (K, K): row j has the factors α_jk of column j."""

    def __init__(self, columns: int, own_share: float) -> None:
        super().__init__()
        own_share = own_share if columns > 1 else 1.0
        others = (1 - own_share) / max(columns - 1, 1)
        self.matrix = nn.Parameter(torch.full((columns, columns), others) + (own_share - others) * torch.eye(columns))

    def forward(self, x: Tensor) -> Tensor:
        return mixed(self.matrix, x)


class CrossStitch(nn.Module):
    """Features (.., B, inputs) of the convolutions -> (.., B, output_size)."""

    def __init__(self, config: Config, inputs: int, output_size: int, code: Tensor) -> None:
        super().__init__()
        columns = code.numel()
        sizes = [inputs, *[config.fc_width] * config.fc_depth, output_size]
        self.layers = nn.ModuleList([ColumnLinear(columns, a, b) for a, b in itertools.pairwise(sizes)])
        self.stitches = nn.ModuleList([Stitch(columns, config.own_share) for _ in range(config.fc_depth)])
        self.code = owned(TaskCode(code))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, every=index == 0)
            if index < len(self.stitches):
                x = self.stitches[index](F.relu(x))
        return mixed(self.code.value.unsqueeze(-2), x).squeeze(-3)


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        conv, inputs = convolutions(config, image_shape)
        return nn.Sequential(*conv, CrossStitch(config, inputs, output_size, code))

    return factory
