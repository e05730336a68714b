"""Mint: matrix interleaving, an owned square matrix and bias after every shared layer (Mint paper, Sec. 4).

y = M_i σ(W x + b) + β_i for task i, in the order linear, activation, Mint. M starts at the identity and β at
zero (the paper is silent), so that the network starts as joint training. Whether the output layer gets one
is ambiguous in the paper: `output_mint`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, Torso, linear, owned


class Mint(nn.Module):
    """y = M x + β. matrix (features, features), bias (features,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.matrix, self.bias)


@dataclass
class Config(NetworkConfig):
    kind: str = "mint"
    width: int = 160
    """The paper's width for MT10 (150 for MT50, 200 for pushing)."""
    output_mint: bool = False
    """Whether the output layer is followed by a Mint layer too."""


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso(
            input_size,
            config.width,
            config.depth,
            layer_norm=config.layer_norm,
            after=lambda: owned(Mint(config.width)),
        )
        head: list[nn.Module] = [Linear(config.width, output_size)]
        if config.output_mint:
            head.append(owned(Mint(output_size)))
        return nn.Sequential(torso, *head)

    return factory
