"""Soft modularization: shared modules, mixed by routing weights from the task and the state (Yang et al. 2020).

With the state's embedding f(s), the task's embedding h(z) and L layers of n modules, p^l are the routing logits after
layer l < L, and g_i^l is the input of module i of layer l (Sec. 4):
p¹ = W_d¹ ReLU(f ⊙ h), p^(l+1) = W_d^(l+1) ReLU(W_u^l p^l ⊙ (f ⊙ h)), p̂ = softmax over incoming modules j,
g_i^(l+1) = Σ_j p̂_ij^l σ(W_j^l g_j^l). Each module of the last layer has a linear head, and the output is the sum of the
heads. Here h(z) is a trained vector of each task. This is equivalent to a linear layer on the task's one-hot code. f(s)
is a hidden layer followed by a linear one; the first layer of modules sees the hidden layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import ACTIVATIONS, LayerNorm, Linear, TaskVector, Torso, owned


class ModuleLayer(nn.Module):
    """n modules in parallel: maps a list of n tensors (B, inputs) to a list of n tensors (B, outputs)."""

    def __init__(self, modules: int, inputs: int, outputs: int, layer_norm: bool, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.linears = nn.ModuleList([Linear(inputs, outputs) for _ in range(modules)])
        self.norms = nn.ModuleList([LayerNorm(outputs) for _ in range(modules)] if layer_norm else [])

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = [layer(x) for layer, x in zip(self.linears, inputs, strict=True)]
        if self.norms:
            outputs = [norm(x) for norm, x in zip(self.norms, outputs, strict=True)]
        return [self.activation(x) for x in outputs]


class SoftModular(nn.Module):
    """Maps x (B, input_size) to (B, output_size), written for one task."""

    def __init__(self, config: Config, input_size: int, output_size: int) -> None:
        super().__init__()
        n, width = config.modules, config.module_width
        self.modules_per_layer = n
        self.embedding = Torso(input_size, config.width, 1, layer_norm=config.layer_norm, activation=config.activation)
        self.state_query = Linear(config.width, config.width)
        self.query = owned(TaskVector(torch.randn(config.width), trained=True))
        sizes = [config.width, *[width] * config.depth]
        self.layers = nn.ModuleList(
            [ModuleLayer(n, i, o, config.layer_norm, config.activation) for i, o in pairwise(sizes)]
        )
        self.routers = nn.ModuleList([Linear(config.width, n * n) for _ in range(config.depth - 1)])
        self.lifts = nn.ModuleList([Linear(n * n, config.width) for _ in range(config.depth - 2)])
        self.heads = nn.ModuleList([Linear(width, output_size) for _ in range(n)])

    def forward(self, x: Tensor) -> Tensor:
        state = self.embedding(x)
        features = [state] * self.modules_per_layer
        query = self.state_query(state) * self.query(state)
        gate = query
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index == len(self.routers):
                break
            logits = self.routers[index](F.relu(gate))
            routing = logits.unflatten(-1, (self.modules_per_layer, self.modules_per_layer)).softmax(-1)
            if index < len(self.lifts):
                gate = self.lifts[index](logits) * query
            features = list((routing @ torch.stack(features, -2)).unbind(-2))
        outputs = [head(f) for head, f in zip(self.heads, features, strict=True)]
        return torch.stack(outputs).sum(0)


@dataclass
class Config(NetworkConfig):
    kind: str = "soft_modular"
    depth: int = option(2, "2 or more")
    """Layers of modules (the paper's L: 2 shallow, 4 deep)."""
    modules: int = option(2, "a positive integer")
    """Modules of each layer (the paper's n: 2 shallow, 4 deep)."""
    module_width: int = option(256, "a positive integer")
    """Units of each module (256 in the shallow network, 128 in the deep one)."""


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    return lambda code: SoftModular(config, input_size, output_size)
