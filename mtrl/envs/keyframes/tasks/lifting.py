"""Tasks of grasping and lifting: pick_and_lift, pick_up_cup, take_umbrella_out_of_umbrella_stand."""

from __future__ import annotations

import numpy as np

from mtrl.envs.keyframes.poses import Pose, down, level, yaw_of
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks.base import Region, Task, Waypoint, boxes, scatter, turn
from mtrl.envs.keyframes.world import World

ABOVE = 0.12
"""Metres from a grasp up to the keyframe above it."""
CUBE = 0.025
"""Half a cube's edge, in metres."""
CUP = 0.027, 0.085
"""Radius and height of a cup, in metres."""


def _cube(name: str, colour: str) -> str:
    return f'<body name="{name}"><freejoint/>{boxes((0, 0, 0, CUBE, CUBE, CUBE), mass=0.08, colour=colour)}</body>'


def _cup(name: str, colour: str) -> str:
    """A cup of eight walls around a bottom, with a handle on the robot's side."""
    radius, height = CUP
    walls = []
    for k in range(8):
        angle = k * np.pi / 4
        size = (0.003, radius * np.tan(np.pi / 8) + 0.002, height / 2)
        row = (radius * np.cos(angle), radius * np.sin(angle), 0, *size)
        walls.append(boxes(row, mass=0.008, colour=colour, yaw=angle))
    bottom = (0, 0, 0.004 - height / 2, radius * 0.8, radius * 0.8, 0.004)
    handle = (-radius - 0.014, 0, 0, 0.012, 0.005, 0.024)
    return f'<body name="{name}"><freejoint/>{"".join(walls)}{boxes(bottom, handle, mass=0.008, colour=colour)}</body>'


class PickAndLift(Task):
    """Lift the red one of three cubes to a green ball in the air."""

    name = "pick_and_lift"
    sentence = "pick up the red block and lift it up to the target"
    keyframes = 3
    ranges = "blocks: 30 x 50 cm, ±45°; ball: 20 x 40 cm, 15 to 35 cm high"
    reach = 0.06
    """Metres: the block is at the ball if their distance is less than this."""
    objects = (
        _cube("block", "0.9 0.1 0.1")
        + _cube("other", "0.15 0.25 0.9")
        + _cube("another", "0.95 0.8 0.1")
        + '<body name="ball" mocap="true"><geom class="marker" type="sphere" size="0.03" rgba="0.1 0.8 0.2 1"/></body>'
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        region = Region((0.12, 0.42), (-0.25, 0.25), 0.06)
        names = ("block", "other", "another")
        for name, spot in zip(names, scatter(rng, region, region, region), strict=True):
            world.place(name, (*spot, TABLE + CUBE), turn(rng))
        x, y = rng.uniform(0.15, 0.35), rng.uniform(-0.2, 0.2)
        world.place("ball", (x, y, TABLE + rng.uniform(0.15, 0.35)))

    def plan(self, world: World) -> list[Waypoint]:
        block = world.pose("block")
        grasp = Pose(block.position, down(yaw_of(block.quaternion)))
        lifted = Pose(world.pose("ball").position, grasp.quaternion)
        return [Waypoint(grasp.raised(ABOVE), True), Waypoint(grasp, False), Waypoint(lifted, False)]

    def solved(self, world: World) -> bool:
        distance = np.linalg.norm(world.pose("block").position - world.pose("ball").position)
        return world.held("block") and float(distance) < self.reach


class PickUpCup(Task):
    """Lift the red one of two cups."""

    name = "pick_up_cup"
    sentence = "pick up the red cup"
    keyframes = 3
    ranges = "cups: 30 x 50 cm, ±45°"
    lift = 0.2
    objects = _cup("cup", "0.9 0.1 0.1") + _cup("other", "0.15 0.25 0.9")

    def place(self, world: World, rng: np.random.Generator) -> None:
        region = Region((0.12, 0.42), (-0.25, 0.25), 0.075)
        for name, spot in zip(("cup", "other"), scatter(rng, region, region), strict=True):
            world.place(name, (*spot, TABLE + CUP[1] / 2), turn(rng))

    def plan(self, world: World) -> list[Waypoint]:
        cup = world.pose("cup")
        grasp = Pose(cup.point(0, 0, 0.015), down(yaw_of(cup.quaternion)))
        return [Waypoint(grasp.raised(ABOVE), True), Waypoint(grasp, False), Waypoint(grasp.raised(self.lift), False)]

    def solved(self, world: World) -> bool:
        height = world.pose("cup").position[2] - TABLE - CUP[1] / 2
        return world.held("cup") and height > self.lift / 2


class TakeUmbrellaOut(Task):
    """Pull a folded umbrella out of a narrow stand by its flat grip, from the side."""

    name = "take_umbrella_out_of_umbrella_stand"
    sentence = "take the umbrella out of the umbrella stand"
    keyframes = 3
    ranges = "stand: 25 x 50 cm, ±45°"
    rim, grip = 0.16, 0.36
    """Metres above the table: the stand's rim, and the middle of the grip."""
    lift = 0.26
    objects = (
        '<body name="stand" mocap="true">'
        + boxes((0, 0, 0.005, 0.05, 0.05, 0.005), colour="0.3 0.2 0.12")
        + boxes(
            (0.045, 0, rim / 2, 0.005, 0.05, rim / 2),
            (-0.045, 0, rim / 2, 0.005, 0.05, rim / 2),
            (0, 0.045, rim / 2, 0.05, 0.005, rim / 2),
            (0, -0.045, rim / 2, 0.05, 0.005, rim / 2),
            colour="0.45 0.3 0.18",
        )
        + '</body><body name="umbrella"><freejoint/>'
        '<geom type="capsule" fromto="0 0 0.035 0 0 0.25" size="0.035" mass="0.12" rgba="0.15 0.3 0.85 1"/>'
        '<geom type="cylinder" fromto="0 0 0.25 0 0 0.33" size="0.008" mass="0.01" rgba="0.6 0.6 0.6 1"/>'
        + boxes((0, 0, grip - 0.01, 0.03, 0.012, 0.04), mass=0.02, colour="0.9 0.15 0.1")
        + "</body>"
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        (spot,) = scatter(rng, Region((0.2, 0.45), (-0.25, 0.25), 0))
        yaw = turn(rng)
        world.place("stand", (*spot, TABLE), yaw)
        world.place("umbrella", (*spot, TABLE + 0.011), yaw)

    def plan(self, world: World) -> list[Waypoint]:
        umbrella = world.pose("umbrella")
        orientation = level(yaw_of(umbrella.quaternion))
        grasp = Pose(umbrella.point(0, 0, self.grip - 0.01), orientation)
        before = Pose(grasp.point(0, 0, -0.12), orientation)
        return [Waypoint(before, True), Waypoint(grasp, False), Waypoint(grasp.raised(self.lift), False)]

    def solved(self, world: World) -> bool:
        return world.held("umbrella") and world.pose("umbrella").position[2] > TABLE + self.rim
