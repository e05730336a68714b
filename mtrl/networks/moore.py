"""MOORE: the features of several experts are made orthonormal, and each task weights them (Hendawy et al. 2024).

For a state s, Gram–Schmidt turns the features h_1(s), .., h_k(s) of k experts into an orthonormal basis v_1, .., v_k
(paper, Sec. 4; arXiv 2311.11385). Task i has a head of its own on tanh(Σ_j w_ij v_j). The paper's task encoder is a
linear layer without a bias on the task's one-hot code, which is equivalent to a vector w_i that each task owns. As in
the authors' code for Meta-World, an expert's last layer is linear, and the only later activation is the tanh.

Deviations from the authors' code:

- Experts and heads are initialised like all other layers of mtrl. Only the weights w_i follow Xavier's rule.
- Linearly dependent features give vectors shorter than 1 instead of a division by zero.
- Weights and heads are owned by tasks, so gradient surgery does not act on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import check, option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, TaskVector, Torso, owned, weighted_sum

_SMALLEST, _SMALLEST_SHARE = 1e-6, 1e-4
"""Lower bounds of the length by which a vector is divided: one fixed, one as a share of its feature's length. What is
left of a dependent feature is rounding error, which grows with the feature."""


def orthonormal(features: Sequence[Tensor]) -> list[Tensor]:
    """Gram–Schmidt over k tensors (.., d), separately for each leading index. Returns k tensors (.., d)."""
    basis: list[Tensor] = []
    for feature in features:
        rest = feature
        for vector in basis:
            rest = rest - (rest * vector).sum(-1, keepdim=True) * vector
        square, whole = (part.square().sum(-1, keepdim=True) for part in (rest, feature))
        basis.append(rest * square.clamp(min=_SMALLEST**2 + _SMALLEST_SHARE**2 * whole).rsqrt())
    return basis


class Moore(nn.Module):
    def __init__(self, config: Config, code: Tensor, input_size: int, output_size: int) -> None:
        super().__init__()
        shape = {"layer_norm": config.layer_norm, "activation": config.activation}
        hidden, last = config.depth - 1, config.width if config.depth > 1 else input_size
        self.experts = nn.ModuleList(
            nn.Sequential(Torso(input_size, config.width, hidden, **shape), Linear(last, config.width))
            for _ in range(config.experts)
        )
        bound = math.sqrt(6 / (code.numel() + config.experts))
        self.weights = owned(TaskVector(torch.empty(config.experts).uniform_(-bound, bound), trained=True))
        self.head = owned(Linear(config.width, output_size))

    def forward(self, x: Tensor) -> Tensor:
        basis = orthonormal([expert(x) for expert in self.experts])
        return self.head(weighted_sum(self.weights(x), basis).tanh())


@dataclass
class Config(NetworkConfig):
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {"mt50": {"experts": "6"}}
    kind: str = "moore"
    experts: int = option(4, "a positive integer")
    """k: the number of experts (the paper: 4 for MT10, 6 for MT50). Each has `depth` layers, the last one linear."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = "at least network.experts, the number of orthogonal vectors"
        check(self.width >= self.experts, "network.width", fits, self.width)


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    return lambda code: Moore(config, code, input_size, output_size)
