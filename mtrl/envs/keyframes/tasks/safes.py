"""Tasks with a safe that has two shelves and an open door: take_money_out_safe, put_money_in_safe."""

from __future__ import annotations

import numpy as np

from mtrl.envs.keyframes.poses import Pose, about_z, down, level, yaw_of
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks.base import Region, Task, Waypoint, boxes, scatter, turn
from mtrl.envs.keyframes.world import World

FLOOR, SHELF, ROOF = 0.1, 0.26, 0.42
"""Metres above the table: the two shelves and the roof."""
DEPTH, WIDTH = 0.1, 0.14
"""Half the outer depth and width, in metres. The front is open at x = -DEPTH, towards the robot."""
OPEN = 3.05
"""The angle of the open door, in radians."""
MONEY = 0.035, 0.024, 0.02
"""Half extents of the bundle, in metres."""

_SAFE = (
    '<body name="safe" mocap="true">'
    + boxes(
        (0, 0, FLOOR / 2, DEPTH, WIDTH, FLOOR / 2),
        (0.01, 0, SHELF - 0.005, DEPTH - 0.01, WIDTH, 0.005),
        (0.03, 0, ROOF - 0.005, DEPTH - 0.03, WIDTH, 0.005),
        (DEPTH - 0.005, 0, ROOF / 2, 0.005, WIDTH, ROOF / 2),
        (0, WIDTH - 0.005, ROOF / 2, DEPTH, 0.005, ROOF / 2),
        (0, 0.005 - WIDTH, ROOF / 2, DEPTH, 0.005, ROOF / 2),
        colour="0.35 0.4 0.5",
    )
    + f'<body name="door" pos="{-DEPTH - 0.006} {WIDTH} {ROOF / 2}">'
    '<joint name="door" type="hinge" axis="0 0 -1" range="0 3.1" damping="0.2" frictionloss="0.3"/>'
    + boxes((0, -WIDTH, 0, 0.004, WIDTH - 0.004, ROOF / 2 - 0.01), mass=0.8, colour="0.25 0.28 0.36")
    + boxes((-0.012, 0.04 - 2 * WIDTH, 0, 0.008, 0.01, 0.04), mass=0.05, colour="0.8 0.8 0.8")
    + '</body></body><body name="money"><freejoint/>'
    + boxes((0, 0, 0, *MONEY), mass=0.1, colour="0.1 0.7 0.2")
    + "</body>"
)


class TakeMoneyOutSafe(Task):
    """Take a bundle of money from one of the two shelves and put it on the table in front."""

    name = "take_money_out_safe"
    sentence = "take the money out of the safe and put it on the table"
    keyframes = 4
    ranges = "safe: 20 x 50 cm, ±45°; money: upper or lower shelf, 10 cm along it"
    objects = _SAFE

    def place(self, world: World, rng: np.random.Generator) -> None:
        (spot,) = scatter(rng, Region((0.36, 0.56), (-0.25, 0.25), 0))
        yaw = turn(rng)
        world.place("safe", (*spot, TABLE), yaw)
        world.turn_joint("door", OPEN)
        safe = Pose(np.array([*spot, TABLE]), about_z(yaw))
        height = (FLOOR, SHELF)[rng.integers(2)] + MONEY[2]
        world.place("money", safe.point(MONEY[0] + 0.02 - DEPTH, rng.uniform(-0.05, 0.05), height), yaw)

    def plan(self, world: World) -> list[Waypoint]:
        money = world.pose("money")
        orientation = level(yaw_of(money.quaternion))
        before, grasp, out = (Pose(money.point(x, 0, 0), orientation) for x in (-0.19, 0, -0.24))
        table = Pose(np.array([*out.position[:2], TABLE + 0.045]), orientation)
        return [Waypoint(before, True), Waypoint(grasp, False), Waypoint(out, False), Waypoint(table, True)]

    def solved(self, world: World) -> bool:
        low = world.pose("money").position[2] < TABLE + MONEY[0] + 0.01
        return low and world.gripper_open and world.touching("money", "table")


class PutMoneyInSafe(Task):
    """Take a bundle of money from the table in front and put it on the upper shelf."""

    name = "put_money_in_safe"
    sentence = "put the money on the upper shelf of the safe"
    keyframes = 5
    ranges = "safe: 20 x 50 cm, ±45°; money: 20 x 50 cm, ±45°, in front of the safe"
    objects = _SAFE

    def place(self, world: World, rng: np.random.Generator) -> None:
        regions = Region((0.36, 0.56), (-0.25, 0.25), 0.1), Region((0.02, 0.22), (-0.25, 0.25), 0.1)
        yaw = turn(rng)
        safe, spot = scatter(rng, *regions, accept=lambda a, b: (a - b) @ [np.cos(yaw), np.sin(yaw)] > 0.25)
        world.place("safe", (*safe, TABLE), yaw)
        world.turn_joint("door", OPEN)
        world.place("money", (*spot, TABLE + MONEY[2]), turn(rng))

    def plan(self, world: World) -> list[Waypoint]:
        money, safe = world.pose("money"), world.pose("safe")
        grasp = Pose(money.position, down(yaw_of(money.quaternion)))
        above, lifted = grasp.raised(0.12), grasp.raised(0.3)
        orientation = level(yaw_of(safe.quaternion))
        front, inside = (Pose(safe.point(x - DEPTH, 0, SHELF + 0.06), orientation) for x in (-0.12, 0.06))
        steps = [(above, True), (grasp, False), (lifted, False), (front, False), (inside, True)]
        return [Waypoint(*step) for step in steps]

    def solved(self, world: World) -> bool:
        safe = world.pose("safe")
        offset = safe.local(world.pose("money").position)
        inside = abs(offset[0]) < DEPTH and abs(offset[1]) < WIDTH and SHELF < offset[2] < ROOF
        return bool(inside) and world.gripper_open
