"""Picking the puck up and placing it: pick-place-v3 and, over a wall, pick-place-wall-v3."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, hamacher, scaled_distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

PUCK: Mapping[str, str] = MappingProxyType(
    {"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat", "touching": "touching.objGeom"}
)
"""Probes of the puck where Meta-World reports its body's position. The orientation is always the geom's."""
PUCK_GEOM: Mapping[str, str] = MappingProxyType({**PUCK, "obj": "geom.objGeom.xpos"})
"""Probes of the puck where Meta-World reports its geom's position."""
PLACING: Mapping[str, str] = MappingProxyType(
    {"target_height": "heightTarget", "obj_height": "objHeight", "max_placing": "maxPlacingDist"}
)
"""Constants of `pick_place_v1`."""
_WALL_SCALE = (1.0, 1.0, 3.0)


def pick_place_v2(s: State) -> Outcome:
    """Rewards a grasped puck near the goal, with a bonus for lifting it; 10 at the goal."""
    obj, opened, to_target, to_obj, in_place = kernels.carried(s)
    caging = hamacher(kernels.between_pads(s, obj, 0.015, 0.05), kernels.xz_caging(s, obj, 0.005, s.obj_init))
    grasped, single = kernels.grip(s, caging)
    lifted = to_obj < 0.02 and opened > 0 and obj[2] - 0.01 > s.obj_init[2]
    reward = kernels.carry(single, grasped, in_place, lifted, 1.0 + 5.0 * in_place)
    return kernels.graded(s, reward, to_target, to_obj, 0.07, grasped, in_place)


def _rising(grasped: Any, over_wall: Any, rising: Any) -> Any:
    return hamacher(grasped, over_wall) + 1.0 + rising


def _placing(grasped: Any, over_wall: Any, placing: Any) -> Any:
    return hamacher(grasped, over_wall) + 1.0 + 4.0 + placing


def pick_place_wall_v2(s: State) -> Outcome:
    """Like `pick_place_v2`, but the puck goes first to a point above the wall and from there to the goal."""
    obj, opened, to_target, to_obj, in_place = kernels.carried(s)
    above_wall = (s.target[0], 0.77, 0.25)
    margin = scaled_distance(s.obj_init, above_wall, _WALL_SCALE)
    over_wall = within(scaled_distance(obj, above_wall, _WALL_SCALE), 0.05, margin)
    grasped, single = kernels.gripper_caging(s, obj, 0.015, 0.05, 0.005, high_density=False)
    if not (to_obj < 0.02 and opened > 0 and obj[2] - 0.015 > s.obj_init[2]):
        reward = kernels.mixed(single, hamacher, grasped, over_wall)
    elif obj[1] > 0.75:
        reward = kernels.mixed(single, _placing, grasped, over_wall, 3.0 * in_place)
    else:
        reward = kernels.mixed(single, _rising, grasped, over_wall, 4.0 * over_wall)
    return kernels.graded(s, reward, to_target, to_obj, 0.07, grasped, in_place)


def pick_place_v1(s: State, goal_radius: float = 0.07) -> Outcome:
    """Reach the puck, lift it to the target height, then carry it.

    In pick-out-of-hole, Meta-World's lifting reward measures heights from 2 cm below the object's start. The object
    always starts at a height of 2 cm, so the heights are the same.
    """
    obj = s.observation[4:7]
    reach, reach_reward = kernels.approach(s, obj, s.init_tcp[2], 2.0)
    placing = distance(obj, s.target)
    held, lift_reward = kernels.lift(obj[2], s.obj_height, s.target_height, placing, reach)
    reward = reach_reward + lift_reward + kernels.place(held, reach, placing, s.max_placing)
    return kernels.outcome_v1(reward, placing, goal_radius)


SPECS = (
    TaskSpec("pick-place-v3", posed_by_matrix, pick_place_v2, pick_place_v1, PUCK, PLACING),
    TaskSpec("pick-place-wall-v3", posed_by_matrix, pick_place_wall_v2, pick_place_v1, PUCK_GEOM, PLACING),
)
