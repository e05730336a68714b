"""The task of pushing along the table: slide_block_to_target."""

from __future__ import annotations

import numpy as np

from mtrl.envs.keyframes.poses import Pose, down, yaw_of
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks.base import Region, Task, Waypoint, scatter, turn
from mtrl.envs.keyframes.world import World


class SlideBlock(Task):
    """Push a block straight ahead, with both fingertips, onto a green field."""

    name = "slide_block_to_target"
    sentence = "slide the block to the target"
    keyframes = 3
    ranges = "block: 20 x 40 cm, ±45°; the field lies 20 cm ahead of it"
    distance, reach = 0.2, 0.04
    """Metres: how far the field lies ahead, and how near to it the block must come."""
    half = 0.04, 0.065, 0.03
    """Half extents of the block, in metres."""
    objects = (
        f'<body name="block"><freejoint/><geom type="box" size="{half[0]} {half[1]} {half[2]}" mass="0.3" '
        'rgba="0.9 0.1 0.1 1"/></body><body name="field" mocap="true">'
        '<geom class="marker" type="box" size="0.06 0.085 0.0005" rgba="0.1 0.75 0.2 1"/></body>'
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        (spot,) = scatter(rng, Region((0.1, 0.3), (-0.2, 0.2), 0))
        yaw = turn(rng)
        world.place("block", (*spot, TABLE + self.half[2]), yaw)
        ahead = spot + self.distance * np.array([np.cos(yaw), np.sin(yaw)])
        world.place("field", (*ahead, TABLE + 0.0006), yaw)

    def plan(self, world: World) -> list[Waypoint]:
        block = world.pose("block")
        orientation = down(yaw_of(block.quaternion))
        behind = Pose(block.point(-self.half[0] - 0.05, 0, 0.005), orientation)
        onto = Pose(block.point(self.distance - self.half[0] - 0.014, 0, 0.005), orientation)
        return [Waypoint(behind.raised(0.12), True), Waypoint(behind, True), Waypoint(onto, True)]

    def solved(self, world: World) -> bool:
        away = world.pose("block").position - world.pose("field").position
        return float(np.linalg.norm(away[:2])) < self.reach
