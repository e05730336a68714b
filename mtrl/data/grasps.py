"""Attempts to grasp: their labels, and the part of a picture around the gripper's command."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING, ANOTHER, WANTED = 0, 1, 2
"""Labels of an attempt: nothing was lifted, an object that was not wanted, or the wanted one."""
WINDOW = 0.16
"""Metres along each edge of the part of the table that is cut out."""


def crops(pictures: Tensor, commands: Tensor, projection: Tensor, height: float, size: int) -> Tensor:
    """The part of a calibrated camera's picture around each command, turned as the gripper is.

    Args:
        pictures: (M, C, H, W) uint8
        commands: (M, P, 3): x and y in metres, and the turn about the vertical in radians
        projection: (3, 4): maps homogeneous points of the world to (column, row, 1), up to scale
        height: of the horizontal plane on which the part lies, in metres

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
    """The numbers of the lifted objects (−1 for none) and of the wanted objects -> labels of the same shape."""
    return torch.where(grasped < 0, NOTHING, torch.where(grasped == wanted, WANTED, ANOTHER))
