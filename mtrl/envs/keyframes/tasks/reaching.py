"""Tasks of reaching and touching: reach_target, push_button."""

from __future__ import annotations

import numpy as np

from mtrl.envs.keyframes.poses import Pose, down
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks.base import Region, Task, Waypoint, boxes, scatter, turn
from mtrl.envs.keyframes.world import World

BALL = 0.035
"""Radius of a ball, in metres."""


def _ball(name: str, colour: str) -> str:
    shape = f'<geom class="marker" type="sphere" size="{BALL}" rgba="{colour} 1"/>'
    return f'<body name="{name}" mocap="true">{shape}</body>'


class ReachTarget(Task):
    """Reach with the point between the fingertips into the red one of three balls in the air."""

    name = "reach_target"
    sentence = "reach the red target"
    keyframes = 1
    ranges = "balls: 33 x 60 cm, 8 to 40 cm high"
    objects = _ball("ball", "0.9 0.1 0.1") + _ball("other", "0.15 0.25 0.9") + _ball("another", "0.95 0.8 0.1")

    def place(self, world: World, rng: np.random.Generator) -> None:
        region = Region((0.12, 0.45), (-0.3, 0.3), 0.07)
        names = ("ball", "other", "another")
        for name, spot in zip(names, scatter(rng, region, region, region), strict=True):
            world.place(name, (*spot, TABLE + rng.uniform(0.08, 0.4)))

    def plan(self, world: World) -> list[Waypoint]:
        return [Waypoint(Pose(world.pose("ball").position, down()), True)]

    def solved(self, world: World) -> bool:
        distance = np.linalg.norm(world.pose("ball").position - world.gripper.position)
        return float(distance) < BALL


class PushButton(Task):
    """Press a sprung button down with closed fingers."""

    name = "push_button"
    sentence = "push the red button"
    keyframes = 2
    ranges = "button: 33 x 60 cm, ±45°"
    top, travel = 0.082, 0.02
    """Metres: the height of the cap's top above the table, and how far down the cap can move."""
    objects = (
        '<body name="button" mocap="true">'
        + boxes((0, 0, 0.015, 0.06, 0.06, 0.015), colour="0.25 0.25 0.28")
        + '<body name="cap" pos="0 0 0.067">'
        f'<joint name="cap" type="slide" axis="0 0 -1" range="0 {travel}" stiffness="150" damping="3"/>'
        '<geom type="cylinder" size="0.035 0.015" mass="0.02" rgba="0.9 0.1 0.1 1"/>'
        '<geom class="marker" type="cylinder" pos="0 0 -0.02" size="0.01 0.02" rgba="0.6 0.6 0.6 1"/></body></body>'
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        (spot,) = scatter(rng, Region((0.12, 0.45), (-0.3, 0.3), 0))
        world.place("button", (*spot, TABLE), turn(rng))

    def plan(self, world: World) -> list[Waypoint]:
        button = world.pose("button")
        top = Pose(button.point(0, 0, self.top), down())
        return [Waypoint(top.raised(0.1), False), Waypoint(top.raised(-0.012), False)]

    def solved(self, world: World) -> bool:
        return world.joint("cap") > self.travel / 2
