"""One network per task: every tensor is owned, and nothing is shared."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, Torso, owned


@dataclass
class Config(NetworkConfig):
    kind: str = "independent"


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso.of(config, input_size)
        return owned(nn.Sequential(torso, Linear(config.width, output_size)))

    return factory
