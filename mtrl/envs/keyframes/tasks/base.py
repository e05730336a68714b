"""The definition of a keyframe task, and how scenes are randomised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.envs.keyframes.poses import Pose
from mtrl.envs.keyframes.world import World

TURN = np.pi / 4
"""Objects are turned about the vertical by up to this angle in either direction."""
_ATTEMPTS = 1000


class Waypoint(NamedTuple):
    """One keyframe of an expert."""

    pose: Pose
    gripper_open: bool


class Task(ABC):
    """A scene, its randomisation, an expert that knows the scene's state, and the test for success."""

    name: ClassVar[str]
    sentence: ClassVar[str]
    """The task in words."""
    keyframes: ClassVar[int]
    """Keyframes in every demonstration. An episode has at most as many actions."""
    ranges: ClassVar[str]
    """The random parts of a scene, and their ranges."""
    objects: ClassVar[str]
    """MJCF of the task's own bodies."""

    @abstractmethod
    def place(self, world: World, rng: np.random.Generator) -> None:
        """Draw a scene: place every object of a world that was just reset."""

    @abstractmethod
    def plan(self, world: World) -> list[Waypoint]:
        """The expert's keyframes for the settled scene."""

    @abstractmethod
    def solved(self, world: World) -> bool:
        """Whether the physical state is a solution."""


@dataclass(frozen=True)
class Region:
    """A rectangle on the table."""

    x: tuple[float, float]
    y: tuple[float, float]
    radius: float
    """Metres around the drawn point that stay free of other objects' circles."""


def scatter(rng: np.random.Generator, *regions: Region, accept: Callable[..., bool] | None = None) -> list[FloatArray]:
    """Draw a point (2,) in each region, uniformly among draws that `accept` allows and whose circles are disjoint."""
    radii = np.array([region.radius for region in regions])
    limits = np.array([(region.x, region.y) for region in regions])
    apart = radii[:, None] + radii - 1e3 * np.eye(len(regions))
    for _ in range(_ATTEMPTS):
        points = rng.uniform(limits[..., 0], limits[..., 1])
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        if (distances >= apart).all() and (accept is None or accept(*points)):
            return list(points)
    raise RuntimeError(f"No room for {len(regions)} objects.")


def turn(rng: np.random.Generator) -> float:
    """Draw an angle in ±45°."""
    return float(rng.uniform(-TURN, TURN))


def boxes(*rows: Sequence[float], colour: str, mass: float | None = None, yaw: float = 0.0) -> str:
    """MJCF of boxes, each given by its centre (3) and half extents (3). mass: that of each box."""
    shapes = []
    rest = f'euler="0 0 {yaw:.5g}" rgba="{colour} 1"' + ("" if mass is None else f' mass="{mass}"')
    for row in rows:
        centre, size = " ".join(f"{v:.5g}" for v in row[:3]), " ".join(f"{v:.5g}" for v in row[3:])
        shapes.append(f'<geom type="box" pos="{centre}" size="{size}" {rest}/>')
    return "".join(shapes)
