"""Shared trunk, one output layer per task (multi-head; the MTMHSAC baseline of Yu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, Torso, owned


@dataclass
class Config(NetworkConfig):
    kind: str = "multi_head"


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        torso = Torso.of(config, input_size)
        return nn.Sequential(torso, owned(Linear(config.width, output_size)))

    return factory
