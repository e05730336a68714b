"""Mint (matrix interleaving): each task owns a square matrix and a bias after every hidden layer (Mint paper, Sec. 4).

y = M_i σ(W x + b) + β_i for task i, in the order linear, activation, Mint. M starts at the identity and β at zero, so
that the network starts as a plain shared one; the paper does not say how they start. The paper also leaves open whether
a Mint layer follows the output layer; `output_mint` decides. Where tasks are goals z, small shared networks generate
M(z) and β(z) (Eq. 5), with M(z) = I + G(z) and G zero at the start. G = U(z) V(z)ᵀ (`generator=low_rank`) has far fewer
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Generator, Linear, Torso, linear, owned


class Mint(nn.Module):
    """y = M x + β. matrix (features, features) starts at the identity, and bias (features,) at zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.matrix, self.bias)


class GeneratedMint(nn.Module):
    """y = (I + G(z)) x + β(z), with G (features, features) and β (features,) generated from the task's code z."""

    def __init__(self, code: Tensor, size: int, width: int) -> None:
        super().__init__()
        self.matrix = Generator(code, size * size, width)
        self.bias = Generator(code, size, width)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        return x + linear(x, self.matrix(x).unflatten(-1, (size, size)), self.bias(x))


class LowRankMint(nn.Module):
    """y = x + U(z) V(z)ᵀ x + β(z), with U and V (features, rank) and β generated from the task's code z.

    U starts at zero and V at random numbers, so that U has a gradient from the first update on.
    """

    def __init__(self, code: Tensor, size: int, width: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.left = Generator(code, size * rank, width)
        self.right = Generator(code, rank * size, width)
        self.bias = Generator(code, size, width)
        nn.init.normal_(self.right.output.bias, std=size**-0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x).unflatten(-1, (-1, self.rank))
        right = self.right(x).unflatten(-1, (self.rank, -1))
        return x + linear(linear(x, right), left, self.bias(x))


@dataclass
class Config(NetworkConfig):
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {"mt50": {"width": "150"}, "pushing": {"width": "200"}}
    kind: str = "mint"
    width: int = 160
    """Units of each hidden layer (the paper: 160 for MT10, 150 for MT50, 200 for pushing)."""
    output_mint: bool = False
    """Whether a Mint layer also follows the output layer."""
    generator: str = option("auto", ("auto", "none", "full", "low_rank"))
    """Whether matrices and biases are generated from the task's code (full, or low_rank) or owned by each task (none).
    auto: full where tasks are goals, none elsewhere."""
    generator_width: int = option(64, "a positive integer")
    """Hidden units of the networks that generate matrices and biases (the paper: "simple neural networks")."""
    rank: int = option(8, "a positive integer")
    """With generator=low_rank: rank of the difference between a matrix and the identity."""

    def for_goals(self) -> Config:
        return replace(self, generator="full") if self.generator == "auto" else self


def _layer(config: Config, code: Tensor, size: int) -> nn.Module:
    if config.generator == "full":
        return GeneratedMint(code, size, config.generator_width)
    if config.generator == "low_rank":
        return LowRankMint(code, size, config.generator_width, config.rank)
    return owned(Mint(size))


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso.of(config, input_size, after=lambda: _layer(config, code, config.width))
        head: list[nn.Module] = [Linear(config.width, output_size)]
        if config.output_mint:
            head.append(_layer(config, code, output_size))
        return nn.Sequential(torso, *head)

    return factory
