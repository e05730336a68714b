"""PaCo: each task's parameters are a linear combination of K shared parameter sets (Sun et al. 2022).

θ_i = Φ w_i: every weight and bias of task i is the sum Σ_k w_ik φ_k over K parameter sets. All tasks train the sets Φ,
and only task i trains its K numbers w_i (paper, Sec. 3; arXiv 2210.11653). Tasks own nothing else, not even a head.

Deviations from the authors' code:

- The actor and each critic have their own w_i; in the authors' code, they share one.
- The sets start as independent layers, and w_i as a random vector of length 1, so that composed layers have a layer's
  usual scale. In the authors' code, the K sets start equal.
- Layer norms, which the paper does not use, are shared and not composed.
- Masking and resetting of tasks with exploding losses are left out, as they are not part of an architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.columns import ColumnLinear
from mtrl.networks.layers import ACTIVATIONS, LayerNorm, TaskVector, linear, owned


def composed(weights: Tensor, sets: Tensor, axes: int) -> Tensor:
    """Σ_k weights[.., k] sets[.., k, *shape]. The result has the leading axes of `weights`, then shape.

    Args:
        weights: (K,), (T, K) or (E, T, K)
        sets: (K, *shape) for all tasks, (T, K, *shape) or (E, 1 or T, K, *shape)
        axes: the number of axes in shape
    """
    flat, shape = sets.flatten(-axes), sets.shape[-axes:]
    if flat.ndim == 2:
        return (weights @ flat).unflatten(-1, shape)
    if flat.shape[-3] == 1:
        return (weights @ flat.squeeze(-3)).unflatten(-1, shape)
    return (weights.unsqueeze(-2) @ flat).squeeze(-2).unflatten(-1, shape)


def _apply(layer: nn.Module, weights: Tensor, x: Tensor) -> Tensor:
    """Apply the combination of a layer's parameter sets to x: (.., B, in) -> (.., B, out)."""
    assert isinstance(layer, ColumnLinear)
    return linear(x, composed(weights, layer.weight, 2), composed(weights, layer.bias, 1))


class PaCo(nn.Module):
    def __init__(self, config: Config, input_size: int, output_size: int) -> None:
        super().__init__()
        self.weights = owned(TaskVector(F.normalize(torch.randn(config.parameter_sets), dim=0), trained=True))
        sizes = [input_size, *[config.width] * config.depth, output_size]
        self.layers = nn.ModuleList(ColumnLinear(config.parameter_sets, *pair) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(LayerNorm(config.width) for _ in range(config.depth * config.layer_norm))
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights.value
        for index, layer in enumerate(self.layers[:-1]):
            x = _apply(layer, weights, x)
            x = self.activation(self.norms[index](x) if self.norms else x)
        return _apply(self.layers[-1], weights, x)


@dataclass
class Config(NetworkConfig):
    kind: str = "paco"
    parameter_sets: int = option(5, "a positive integer")
    """K: the number of parameter sets (the authors' code: 5 for MT10)."""


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    return lambda code: PaCo(config, input_size, output_size)
