"""Random rows of rings whose fill is a tensor, so that drawing them waits for nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_below(limit: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Uniform integers (shape) of int64 in [0, limit), `limit` positive and broadcast to the shape.

    The remainder of 63 random bits: a limit of n makes no number likelier than another by more than n / 2⁶³, where
    fractions in float32 would already prefer some of a million rows.
    """
    bits = torch.randint(2**63 - 1, shape, device=limit.device, generator=generator)
    return bits.remainder_(limit)
