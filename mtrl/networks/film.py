"""FiLM: an owned scale and shift of every shared layer's units (Perez et al. 2018; Mint paper, Sec. 6).

The Mint paper applies it after the activation, the FiLM paper before: `position`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.core.config import check_choice
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, Torso, owned


class FiLM(nn.Module):
    """y = γ ⊙ x + β, starting at (1, 0). scale γ and shift β (features,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 1:
            return torch.addcmul(self.shift, x, self.scale)
        return torch.addcmul(self.shift.unsqueeze(-2), x, self.scale.unsqueeze(-2))


@dataclass
class Config(NetworkConfig):
    kind: str = "film"
    position: str = "after"
    """Where the scale and shift stand: before or after the activation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("network.position", self.position, ("before", "after"))


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        def film() -> nn.Module:
            return owned(FiLM(config.width))

        torso = Torso(
            input_size,
            config.width,
            config.depth,
            layer_norm=config.layer_norm,
            before=film if config.position == "before" else None,
            after=film if config.position == "after" else None,
        )
        return nn.Sequential(torso, Linear(config.width, output_size))

    return factory
