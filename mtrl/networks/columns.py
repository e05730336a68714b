"""K linear layers side by side: cross-stitch's columns, routing networks' blocks, PaCo's parameter sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ColumnLinear(nn.Module):
    """K linear layers of one size. weight (K, out, in), bias (K, out).

    forward: the same input (.., B, in) for all columns, or one input each (.., K, B, in) -> (.., K, B, out).
    """

    def __init__(self, columns: int, input_size: int, output_size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(input_size)
        self.weight = nn.Parameter(torch.empty(columns, output_size, input_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(columns, output_size).uniform_(-bound, bound))

    def forward(self, x: Tensor, *, every: bool) -> Tensor:
        """every: whether x is the same for all columns and has no column axis."""
        x = x.unsqueeze(-3) if every else x
        return x @ self.weight.mT + self.bias.unsqueeze(-2)


def mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """Σ_k matrix[.., j, k] x[.., k, :, :]: matrix (.., J, K) and x (.., K, B, F) -> (.., J, B, F)."""
    return (matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
