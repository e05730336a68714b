"""Pushing the puck over the table: push-v3, push-wall-v3 (around a wall) and push-back-v3 (towards the robot)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, distance_xy, scaled_distance, within
from mtrl.envs.metaworld.tasks.pick_place import PUCK, PUCK_GEOM
from mtrl.envs.metaworld.tasks.state import Outcome, State

_WALL_SCALE = (3.0, 1.0, 1.0)


def doubled(grasped: Any) -> Any:
    return 2.0 * grasped


def _pushing(grasped: Any, pushing: Any) -> Any:
    return doubled(grasped) + (1.0 + doubled(grasped) + pushing)


def _rounding(grasped: Any, rounding: Any) -> Any:
    return doubled(grasped) + 1.0 + rounding


def _past_wall(grasped: Any, pushing: Any) -> Any:
    return doubled(grasped) + 1.0 + 4.0 + pushing


def push_v2(s: State) -> Outcome:
    """Rewards the grasp and then a puck near the goal; 10 at the goal."""
    obj, opened, to_target, to_obj, in_place = kernels.carried(s)
    grasped, single = kernels.gripper_caging(s, obj, 0.015, 0.05, 0.005)
    if to_obj < 0.02 and opened > 0:
        reward = kernels.mixed(single, _pushing, grasped, 5.0 * in_place)
    else:
        reward = kernels.mixed(single, doubled, grasped)
    return kernels.graded(s, reward, to_target, to_obj, 0.05, grasped, in_place)


def push_wall_v2(s: State) -> Outcome:
    """Rewards the grasp, then a puck near a point beside the wall and, once past it, near the goal."""
    obj, opened, to_target, to_obj, in_place = kernels.carried(s)
    beside_wall = (-0.05, 0.77, obj[2])
    margin = scaled_distance(s.obj_init, beside_wall, _WALL_SCALE)
    around_wall = within(scaled_distance(obj, beside_wall, _WALL_SCALE), 0.05, margin)
    grasped, single = kernels.gripper_caging(s, obj, 0.015, 0.05, 0.005)
    if not (to_obj < 0.02 and opened > 0):
        reward = kernels.mixed(single, doubled, grasped)
    elif obj[1] > 0.75:
        reward = kernels.mixed(single, _past_wall, grasped, 3.0 * in_place)
    else:
        reward = kernels.mixed(single, _rounding, grasped, 4.0 * around_wall)
    return kernels.graded(s, reward, to_target, to_obj, 0.07, grasped, in_place)


def push_back_v2(s: State) -> Outcome:
    """Rewards a grasped puck near the goal, with a bonus once it is held and moved; 10 at the goal."""
    obj, opened, to_target, to_obj, in_place = kernels.carried(s)
    grasped = kernels.pad_caging(s, obj, 0.007, 0.003, 0.01)
    closed = opened > 0 and opened < 0.55
    moved = to_obj < 0.01 and closed and distance(s.obj_init, s.target) - to_target > 0.01
    reward = kernels.hamacher(grasped, in_place) + (1.0 + 5.0 * in_place if moved else 0.0)
    return kernels.graded(s, reward, to_target, to_obj, 0.07, grasped, in_place)


push_v1 = partial(kernels.move_v1, distance_xy, 0.07)
"""Reach the puck, then push it over the table."""


def push_dense(s: State) -> Outcome:
    """At most 1: up to 0.2 for fingers near the puck, plus 0.8 times the share of the puck's way that is done.

    The way to the goal is measured over the table. The share is negative if the puck is further away than at the
    start, but not below -1. The reward is not from Meta-World. Within an episode, each centimetre that the puck comes
    nearer to the goal counts the same, whether it is grasped or not.
    """
    obj = s.observation[4:7]
    reach, to_target = distance(s.tcp, obj), distance_xy(obj, s.target)
    longest = distance_xy(s.obj_init, s.target) + kernels.TINY
    come = max(1.0 - to_target / longest, -1.0)
    reward = 0.2 * within(reach, 0.02, 0.2) + 0.8 * come
    return Outcome(reward, to_target <= 0.05, reach <= 0.03, 0.0, 0.0, come, to_target)


_LONGEST = {"longest": "maxPushDist"}

SPECS = (
    TaskSpec("push-v3", posed_by_matrix, push_v2, partial(kernels.move_v1, distance_xy, 0.05), PUCK, _LONGEST),
    TaskSpec("push-wall-v3", posed_by_matrix, push_wall_v2, push_v1, PUCK_GEOM, _LONGEST),
    TaskSpec("push-back-v3", posed_by_matrix, push_back_v2, push_v1, PUCK_GEOM, _LONGEST),
)
