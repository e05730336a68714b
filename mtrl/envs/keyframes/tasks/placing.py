"""Tasks of grasping and putting down: put_knife_on_chopping_board, stack_wine."""

from __future__ import annotations

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.data.demos import rotation_matrix
from mtrl.envs.keyframes.poses import Pose, down, level, yaw_of
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks.base import Region, Task, Waypoint, boxes, scatter, turn
from mtrl.envs.keyframes.world import World

_UP = 0.12
"""Metres from the knife's grasp, or from a release, up to the keyframe above it."""


def _carry(grasp: Pose, before: Pose, lifted: Pose, release: Pose) -> list[Waypoint]:
    """Five keyframes: before the grasp, the grasp, the lifted object, above the place of release, and the release."""
    steps = [(before, True), (grasp, False), (lifted, False), (release.raised(_UP), False), (release, True)]
    return [Waypoint(*step) for step in steps]


class PutKnifeOnChoppingBoard(Task):
    """Take a knife out of its slot in a block and lay it on the board."""

    name = "put_knife_on_chopping_board"
    sentence = "put the knife on the chopping board"
    keyframes = 5
    ranges = "knife block and board: 35 x 60 cm each, ±45° each"
    handle = 0.06
    """Metres from the middle of the knife to the middle of its handle."""
    board = 0.13, 0.09, 0.01
    """Half extents of the board, in metres."""
    objects = (
        '<body name="holder" mocap="true">'
        + boxes(
            (0.06, 0, 0.02, 0.055, 0.03, 0.02),
            (0.06, 0.019, 0.052, 0.055, 0.011, 0.012),
            (0.06, -0.019, 0.052, 0.055, 0.011, 0.012),
            colour="0.5 0.32 0.15",
        )
        + '</body><body name="knife"><freejoint/>'
        + boxes((-handle, 0, 0, 0.05, 0.012, 0.012), mass=0.03, colour="0.8 0.1 0.1")
        + boxes((0.055, 0, 0, 0.06, 0.003, 0.012), mass=0.08, colour="0.7 0.75 0.8")
        + '</body><body name="board" mocap="true">'
        f'<geom name="board" type="box" size="{board[0]} {board[1]} {board[2]}" rgba="0.1 0.45 0.35 1"/></body>'
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        x, y = (0.1, 0.45), (-0.3, 0.3)
        spot, board = scatter(rng, Region(x, y, 0.13), Region(x, y, 0.16))
        yaw = turn(rng)
        world.place("holder", (*spot, TABLE), yaw)
        world.place("knife", (*spot, TABLE + 0.053), yaw)
        world.place("board", (*board, TABLE + self.board[2]), turn(rng))

    def plan(self, world: World) -> list[Waypoint]:
        knife, board = world.pose("knife"), world.pose("board")
        grasp = Pose(knife.point(-self.handle, 0, 0), down(yaw_of(knife.quaternion)))
        release = Pose(board.point(-self.handle, 0, self.board[2] + 0.022), down(yaw_of(board.quaternion)))
        return _carry(grasp, grasp.raised(_UP), grasp.raised(_UP), release)

    def solved(self, world: World) -> bool:
        board = world.pose("board")
        offset = board.local(world.pose("knife").position)
        inside = bool((np.abs(offset[:2]) < self.board[:2]).all())
        return inside and world.gripper_open and world.touching("knife", "board")


class StackWine(Task):
    """Lay a standing bottle into a rack."""

    name = "stack_wine"
    sentence = "stack the wine bottle in the rack"
    keyframes = 5
    ranges = "bottle: 30 x 50 cm; rack: 30 x 50 cm, ±45°, not in front of the bottle"
    radius, half = 0.03, 0.075
    """Radius and half height of the bottle's body, in metres."""
    rail = 0.07
    """Height of the rack's rails above the table, in metres."""
    objects = (
        '<body name="rack" mocap="true">'
        + boxes(
            (0, 0.021, rail - 0.006, 0.1, 0.006, 0.006),
            (0, -0.021, rail - 0.006, 0.1, 0.006, 0.006),
            (0.085, 0, 0.025, 0.01, 0.035, 0.025),
            (-0.085, 0, 0.025, 0.01, 0.035, 0.025),
            (0.085, 0.021, 0.055, 0.01, 0.006, 0.01),
            (0.085, -0.021, 0.055, 0.01, 0.006, 0.01),
            (-0.085, 0.021, 0.055, 0.01, 0.006, 0.01),
            (-0.085, -0.021, 0.055, 0.01, 0.006, 0.01),
            colour="0.55 0.3 0.1",
        )
        + '</body><body name="bottle"><freejoint/>'
        f'<geom type="cylinder" size="{radius} {half}" mass="0.25" rgba="0.1 0.5 0.15 1"/>'
        f'<geom type="cylinder" pos="0 0 {half + 0.03}" size="0.012 0.03" mass="0.02" rgba="0.85 0.75 0.2 1"/></body>'
    )

    def place(self, world: World, rng: np.random.Generator) -> None:
        x, y = (0.12, 0.42), (-0.25, 0.25)
        rack, bottle = scatter(rng, Region(x, y, 0.13), Region(x, y, 0.09), accept=self._reachable)
        world.place("rack", (*rack, TABLE), turn(rng))
        world.place("bottle", (*bottle, TABLE + self.half))

    @staticmethod
    def _reachable(rack: FloatArray, bottle: FloatArray) -> bool:
        """Whether the rack leaves room for the gripper, which approaches the bottle along the table."""
        return bool(rack[0] > bottle[0] or abs(rack[1] - bottle[1]) > 0.18)

    def plan(self, world: World) -> list[Waypoint]:
        bottle, rack = world.pose("bottle"), world.pose("rack")
        grasp = Pose(bottle.position, level())
        before = Pose(grasp.point(0, 0, -0.12), grasp.quaternion)
        release = Pose(rack.point(0, 0, self.rail + self.radius + 0.01), down(yaw_of(rack.quaternion)))
        return _carry(grasp, before, grasp.raised(0.2), release)

    def solved(self, world: World) -> bool:
        rack, bottle = world.pose("rack"), world.pose("bottle")
        offset = rack.local(bottle.position)
        lying = abs(rotation_matrix(bottle.quaternion)[2, 2]) < 0.3
        inside = abs(offset[0]) < 0.07 and abs(offset[1]) < self.radius and offset[2] > self.rail
        return bool(inside) and lying and world.gripper_open and not world.touching("bottle", "table")
