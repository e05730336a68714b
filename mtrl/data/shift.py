"""Random shifts of pictures: an augmentation that keeps the world points of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.data.demo_cache import KeyframeObservation


def shifted(seen: KeyframeObservation, pixels: int, generator: torch.Generator) -> KeyframeObservation:
    """Shift each camera's picture at random by up to `pixels` along each axis, repeating the border.

    Colours, depth and the principal point move together, so every pixel that stays in view keeps its world point
    exactly. Repeated border pixels have the depth of the border, so their points are not on the surface.
    """
    lead = seen.depth.shape[:3]
    moves = torch.randint(-pixels, pixels + 1, (2, *lead), generator=generator)
    rows, columns = (_sources(move, size) for move, size in zip(moves, seen.depth.shape[-2:], strict=True))
    intrinsics = seen.intrinsics.clone()
    intrinsics[..., 0, 2] -= moves[1]
    intrinsics[..., 1, 2] -= moves[0]
    flat = rows.unsqueeze(-1) * seen.depth.shape[-1] + columns.unsqueeze(-2)
    index = flat.flatten(-2)
    depth = seen.depth.flatten(-2).gather(-1, index).view_as(seen.depth)
    rgb = seen.rgb.flatten(-3, -2).gather(-2, index.unsqueeze(-1).expand(*index.shape, 3)).view_as(seen.rgb)
    return seen._replace(rgb=rgb, depth=depth, intrinsics=intrinsics)


def _sources(move: Tensor, size: int) -> Tensor:
    """The old row or column that each new one shows, (T, B, C, size)."""
    return (torch.arange(size) + move.unsqueeze(-1)).clamp(0, size - 1)
