"""FiLM: each task scales and shifts every unit of the shared hidden layers (Perez et al. 2018; Mint paper, Sec. 6).

Each task owns its scales and shifts. Where tasks are goals, small shared networks generate them from the goal. The Mint
paper applies them after the activation, and the FiLM paper before it; `position` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Generator, Linear, Torso, owned


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if x.ndim == 1:
        return torch.addcmul(shift, x, scale)
    return torch.addcmul(shift.unsqueeze(-2), x, scale.unsqueeze(-2))


class FiLM(nn.Module):
    """y = γ ⊙ x + β. The scale γ (features,) starts at one, and the shift β (features,) at zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return _modulate(x, self.scale, self.shift)


class GeneratedFiLM(nn.Module):
    """y = γ(z) ⊙ x + β(z), with γ and β (features,) generated from the task's code z. They start at one and zero."""

    def __init__(self, code: Tensor, size: int, width: int) -> None:
        super().__init__()
        self.generator = Generator(code, 2 * size, width)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.generator(x).chunk(2, -1)
        return _modulate(x, 1 + scale, shift)


@dataclass
class Config(NetworkConfig):
    kind: str = "film"
    position: str = option("after", ("before", "after"))
    """Where scale and shift are applied: before or after the activation."""
    generator: str = option("auto", ("auto", "none", "full"))
    """Whether scale and shift are generated from the task's code (full) or owned by each task (none). auto: full where
    tasks are goals, none elsewhere."""
    generator_width: int = option(64, "a positive integer")
    """Hidden units of the networks that generate scale and shift."""

    def for_goals(self) -> Config:
        return replace(self, generator="full") if self.generator == "auto" else self


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        def film() -> nn.Module:
            if config.generator == "full":
                return GeneratedFiLM(code, config.width, config.generator_width)
            return owned(FiLM(config.width))

        torso = Torso.of(
            config,
            input_size,
            before=film if config.position == "before" else None,
            after=film if config.position == "after" else None,
        )
        return nn.Sequential(torso, Linear(config.width, output_size))

    return factory
