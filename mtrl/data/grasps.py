"""Attempts to grasp: their labels, and crops of images around the commanded gripper poses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING, ANOTHER, WANTED = 0, 1, 2
"""The labels of an attempt: it lifted nothing, an object other than the wanted one, or the wanted object."""
WINDOW = 0.16
"""Metres along a side of a crop."""


def crops(pictures: Tensor, commands: Tensor, projection: Tensor, height: float, size: int) -> Tensor:
    """Square crops of a calibrated camera's images around gripper commands, rotated with the gripper.

    Args:
        pictures: (M, C, H, W) uint8.
        commands: (M, P, 3): x and y in metres, and the rotation about the vertical in radians.
        projection: (3, 4): maps homogeneous world points to (column, row, 1), up to scale.
        height: the height of the horizontal plane in which the crops lie, in metres.
        size: pixels along a side of a crop.

    Returns:
        (M, P, C, size, size) uint8. The gripper's fingers close along the last axis.
    """
    across = WINDOW * ((torch.arange(size) + 0.5) / size - 0.5)
    along, aside = torch.meshgrid(across, across, indexing="ij")
    x, y, turn = commands.float()[..., None, None].unbind(-3)
    points = (x + along * turn.cos() - aside * turn.sin(), y + along * turn.sin() + aside * turn.cos())
    level = torch.full_like(points[0], height)
    seen = torch.stack([*points, level, torch.ones_like(level)], -1) @ projection.float().T
    edge = torch.tensor([pictures.shape[-1] - 1.0, pictures.shape[-2] - 1.0])
    grid = 2 * seen[..., :2] / seen[..., 2:] / edge - 1
    rows = grid.flatten(1, 2)  # (M, P · size, size, 2)
    found = F.grid_sample(pictures.float(), rows, padding_mode="border", align_corners=True)
    return found.unflatten(2, (commands.shape[1], size)).movedim(2, 1).round().to(torch.uint8)


def labels(grasped: Tensor, wanted: Tensor) -> Tensor:
    """The labels of attempts. grasped: the lifted object's number, or −1 for none; wanted: the wanted one's number."""
    return torch.where(grasped < 0, NOTHING, torch.where(grasped == wanted, WANTED, ANOTHER))
