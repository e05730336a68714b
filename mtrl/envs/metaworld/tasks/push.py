"""Pushing the puck over the table: push-v3, push-wall-v3 (around a wall) and push-back-v3 (towards the robot)."""

from __future__ import annotations

from functools import partial

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec, graded
from mtrl.envs.metaworld.tasks.pick_place import PUCK, PUCK_GEOM, puck


def _cage(s: Inputs, obj: Array) -> tuple[Array, Array]:
    return kernels.gripper_caging(s, obj, obj_radius=0.015, pad_success_thresh=0.05, xz_thresh=0.005, high_density=True)


def push_v2(s: Inputs) -> Outcome:
    """Grasp, then closeness of the puck to the goal, 10 at the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = _cage(s, obj)
    near = (to_obj < 0.02) & (opened > 0)

    def tail(grasped: Array, pushing: Array) -> Array:
        reward = 2.0 * grasped
        return np.where(near, reward + (1.0 + reward + pushing), reward)

    reward = kernels.mixed(single, tail, grasped, 5.0 * in_place)
    return graded(s, obj, reward, to_target, 0.05, grasped, in_place)


def push_wall_v2(s: Inputs) -> Outcome:
    """Grasp, then closeness of the puck to a point beside the wall and, once past it, to the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    beside_wall = np.where(kernels.constant((0.0, 0.0, 1.0)) > 0, obj, kernels.constant((-0.05, 0.77, 0.0)))
    scale = kernels.constant((3.0, 1.0, 1.0))
    wall_margin = kernels.norm((s.obj_init - beside_wall) * scale)
    around_wall = kernels.within(kernels.norm((obj - beside_wall) * scale), 0.05, wall_margin)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = _cage(s, obj)
    near = (to_obj < 0.02) & (opened > 0)

    def tail(grasped: Array, rounding: Array, pushing: Array) -> Array:
        reward = 2.0 * grasped
        bonus = np.where(obj[..., 1] > 0.75, reward + 1.0 + 4.0 + pushing, reward + 1.0 + rounding)
        return np.where(near, bonus, reward)

    reward = kernels.mixed(single, tail, grasped, 4.0 * around_wall, 3.0 * in_place)
    return graded(s, obj, reward, to_target, 0.07, grasped, in_place)


def push_back_v2(s: Inputs) -> Outcome:
    """Grasp and closeness to the goal together, a bonus for the puck held and moved, 10 at the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_target_init = kernels.distance(s.obj_init, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    in_place = kernels.within(to_target, 0.05, to_target_init)
    grasped = kernels.pad_caging(s, obj, obj_radius=0.007, grip_margin=0.003, xz_margin=0.01)
    moved = (to_obj < 0.01) & (opened > 0) & (opened < 0.55) & (to_target_init - to_target > 0.01)
    reward = kernels.hamacher(grasped, in_place) + np.where(moved, 1.0 + 5.0 * in_place, 0.0)
    return graded(s, obj, reward, to_target, 0.07, grasped, in_place)


def push_v1(s: Inputs, goal_radius: float = 0.07) -> Outcome:
    """Reach, then push over the table; the reported gripper opening is 0, so no grasp counts."""
    obj = s.observation[..., 4:7]
    reach = kernels.distance(s.tcp, obj)
    pushing = kernels.distance(obj[..., :2], s.target[..., :2])
    reward = kernels.reach_then_move(reach, pushing, s["max_pushing"])
    return Outcome(reward, pushing <= goal_radius, 1.0, 0.0, 0.0, 0.0, pushing)


def push_dense(s: Inputs) -> Outcome:
    """Closeness of the fingers to the puck, a fifth, and how far the puck has come, four fifths: at most 1.

    Not of the package. It pays for each centimetre alike, from the first one on, whether the puck is grasped or not.
    """
    obj = s.observation[..., 4:7]
    reach = kernels.distance(s.tcp, obj)
    to_target = kernels.distance(obj[..., :2], s.target[..., :2])
    longest = kernels.distance(s.obj_init[..., :2], s.target[..., :2])
    come = kernels.at_least(1.0 - to_target / longest, -1.0)
    reward = 0.2 * kernels.within(reach, 0.02, 0.2) + 0.8 * come
    return Outcome(reward, to_target <= 0.05, reach <= 0.03, 0.0, 0.0, come, to_target)


SPECS = (
    TaskSpec(
        name="push-v3",
        objects=puck,
        reward_v2=push_v2,
        reward_v1=partial(push_v1, goal_radius=0.05),
        probes=PUCK,
        constants={"max_pushing": "maxPushDist"},
    ),
    TaskSpec(
        name="push-wall-v3",
        objects=puck,
        reward_v2=push_wall_v2,
        reward_v1=push_v1,
        probes=PUCK_GEOM,
        constants={"max_pushing": "maxPushDist"},
    ),
    TaskSpec(
        name="push-back-v3",
        objects=puck,
        reward_v2=push_back_v2,
        reward_v1=push_v1,
        probes=PUCK_GEOM,
        constants={"max_pushing": "maxPushDist"},
    ),
)
