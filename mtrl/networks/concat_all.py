"""Multi-layer perceptron with the task's code at every layer (the Mint paper's baseline "concat all", Sec. 6)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import CodedLinear, Torso


@dataclass
class Config(NetworkConfig):
    kind: str = "concat_all"


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso.of(config, input_size, make_linear=lambda _, inputs, outputs: CodedLinear(inputs, outputs, code))
        return nn.Sequential(torso, CodedLinear(config.width, output_size, code))

    return factory
