"""Shared trunk, one output layer per task (multi-head; the MTMHSAC baseline of Yu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import CodedLinear, Linear, Torso, owned


@dataclass
class Config(NetworkConfig):
    kind: str = "multi_head"
    task_code: bool = False
    """Whether the first layer also sees the task's code, as in `mlp`."""


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        layers: dict[str, Any] = {}
        if config.task_code:
            layers["make_linear"] = lambda index, i, o: Linear(i, o) if index else CodedLinear(i, o, code)
        torso = Torso.of(config, input_size, **layers)
        return nn.Sequential(torso, owned(Linear(config.width, output_size)))

    return factory
