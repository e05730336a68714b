"""The base class of keyframe tasks, and helpers that randomise scenes."""

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
"""Objects are turned about the vertical by up to this angle, in radians, in either direction."""
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
    """The number of keyframes in every demonstration, and the most actions in an episode."""
    ranges: ClassVar[str]
    """The ranges of the random parts of a scene, in words."""
    objects: ClassVar[str]
    """MJCF of the task's own bodies."""

    @abstractmethod
    def place(self, world: World, rng: np.random.Generator) -> None:
        """Draw a scene: place every object in a world that has just been reset."""

    @abstractmethod
    def plan(self, world: World) -> list[Waypoint]:
        """The expert's keyframes for the settled scene."""

    @abstractmethod
    def solved(self, world: World) -> bool:
        """Whether the world's current state solves the task."""


@dataclass(frozen=True)
class Region:
    """A rectangle on the table: the ranges of x and y, in metres."""

    x: tuple[float, float]
    y: tuple[float, float]
    radius: float
    """Metres: the radius of the circle around the drawn point that overlaps no other region's circle."""


def scatter(rng: np.random.Generator, *regions: Region, accept: Callable[..., bool] | None = None) -> list[FloatArray]:
    """Draw a point (2,) in each region, uniformly but so that the regions' circles do not overlap.

    accept: called with one point per region; returns whether they may be used.

    Raises:
        RuntimeError: none of 1000 draws was accepted.
    """
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
    """Draw an angle in ±`TURN`, in radians."""
    return float(rng.uniform(-TURN, TURN))


def boxes(*rows: Sequence[float], colour: str, mass: float | None = None, yaw: float = 0.0) -> str:
    """MJCF of boxes, each given by its centre (3) and half extents (3), in metres.

    colour: "red green blue", each in [0, 1]. mass: of each box, in kg. yaw: in radians.
    """
    shapes = []
    rest = f'euler="0 0 {yaw:.5g}" rgba="{colour} 1"' + ("" if mass is None else f' mass="{mass}"')
    for row in rows:
        centre, size = " ".join(f"{v:.5g}" for v in row[:3]), " ".join(f"{v:.5g}" for v in row[3:])
        shapes.append(f'<geom type="box" pos="{centre}" size="{size}" {rest}/>')
    return "".join(shapes)
