"""Multi-layer perceptron whose first layer sees the task's code beside the observation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import CodedLinear, Linear, Torso


@dataclass
class Config(NetworkConfig):
    kind: str = "mlp"


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        def make_linear(index: int, inputs: int, outputs: int) -> nn.Module:
            return CodedLinear(inputs, outputs, code) if index == 0 else Linear(inputs, outputs)

        torso = Torso.of(config, input_size, make_linear=make_linear)
        return nn.Sequential(torso, Linear(config.width, output_size))

    return factory
