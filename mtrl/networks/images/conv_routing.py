"""Routing networks on the small convolutional network: in each linear layer a task picks one of K function blocks.

Rosenbaum et al. 2018 and 2019 ("routing-all-fc", the Mint paper's baseline). After the shared convolutions, each task
has a router in every layer, which chooses among K blocks. Rosenbaum et al. 2018 train tabular routers with the weighted
policy learner. Here a router is a vector of logits that the task owns, trained by a straight-through Gumbel-softmax. In
training, each forward pass draws one choice for each task and layer, from PyTorch's global generator. Evaluation takes
the most likely block."""

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
from mtrl.networks.layers import owned


@dataclass
class Config(ConvConfig):
    kind: str = "conv_routing"
    blocks: int | None = option(None, "a positive integer")
    """K: function blocks of each layer; as many as tasks if not given."""
    temperature: float = option(1.0, "positive")
    """Temperature of the Gumbel-softmax through which the routers' gradients flow."""


class Router(nn.Module):
    """Returns a task's choice among K blocks as a one-hot row (1, K). logits (K,)."""

    def __init__(self, blocks: int, temperature: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(1e-2 * torch.randn(blocks))
        self.temperature = temperature

    def forward(self) -> Tensor:
        logits = self.logits.unsqueeze(-2)
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()  # plus Gumbel noise
        soft = (logits / self.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return hard + soft - soft.detach()


class Routing(nn.Module):
    """Features (.., B, inputs) of the convolutions -> (.., B, output_size)."""

    def __init__(self, config: Config, inputs: int, output_size: int, num_tasks: int) -> None:
        super().__init__()
        blocks = config.blocks or num_tasks
        sizes = [inputs, *[config.fc_width] * config.fc_depth, output_size]
        self.layers = nn.ModuleList([ColumnLinear(blocks, a, b) for a, b in itertools.pairwise(sizes)])
        self.routers = nn.ModuleList([owned(Router(blocks, config.temperature)) for _ in self.layers])

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for index, (layer, router) in enumerate(zip(self.layers, self.routers, strict=True)):
            x = mixed(router(), layer(x, every=True)).squeeze(-3)
            x = x if index == last else F.relu(x)
        return x


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        conv, inputs = convolutions(config, image_shape)
        return nn.Sequential(*conv, Routing(config, inputs, output_size, code.numel()))

    return factory
