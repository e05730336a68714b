"""Sliding the plate: plate-slide-v3, and back, to the side and back from the side."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, Reward, TaskSpec

_RADIUS = 0.05


def _plate(s: Inputs) -> tuple[Array, ...]:
    return s["plate"], kernels.quaternion(s["plate_matrix"])


def _closeness(s: Inputs, less: float) -> tuple[Array, ...]:
    """Gripper to plate, plate to goal, and how close both are, with margins ``less`` below those at the start."""
    obj = s.observation[..., 4:7]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(s.tcp, obj)
    in_place = kernels.within(to_target, _RADIUS, kernels.distance(s.obj_init, s.target) - less)
    grasped = kernels.within(to_obj, _RADIUS, kernels.distance(s.init_tcp, s.obj_init) - less)
    return to_obj, to_target, grasped, in_place


def _outcome(reward: Array, to_obj: Array, to_target: Array, grasped: Array, in_place: Array) -> Outcome:
    return Outcome(
        reward=np.where(to_target < _RADIUS, 10.0, reward),
        success=to_target <= 0.07,
        near_object=to_obj <= 0.03,
        grasp_success=0.0,
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def slide_v2(s: Inputs) -> Outcome:
    """Closeness of the gripper and of the plate together, 10 at the goal."""
    to_obj, to_target, grasped, in_place = _closeness(s, 0.0)
    return _outcome(8 * kernels.hamacher(grasped, in_place), to_obj, to_target, grasped, in_place)


def drag_v2(s: Inputs) -> Outcome:
    """Reach until the fingers are down at the plate, then bring it to the goal; 10 there."""
    to_obj, to_target, grasped, in_place = _closeness(s, _RADIUS)
    down = (s.tcp[..., 2] <= 0.03) & (to_obj < 0.07)
    reward = np.where(down, 2.0 + 7.0 * in_place, 1.5 * grasped)
    return _outcome(reward, to_obj, to_target, grasped, in_place)


def slide_v1(s: Inputs) -> Outcome:
    """Reach the plate, then slide it in the plane; the reported gripper error is 0."""
    obj = s.observation[..., 4:7]
    remaining = kernels.distance(obj[..., :2], s.target[..., :2])
    reward = kernels.reach_then_move(kernels.distance(obj, s.tcp), remaining, s["max_distance"])
    return Outcome(reward, remaining <= 0.07, 1.0, 0.0, 0.0, 0.0, remaining)


def _spec(name: str, reward_v2: Reward) -> TaskSpec:
    return TaskSpec(
        name=name,
        objects=_plate,
        reward_v2=reward_v2,
        reward_v1=slide_v1,
        probes={"plate": "geom.puck.xpos", "plate_matrix": "geom.puck.xmat"},
        constants={"max_distance": "maxDist"},
    )


SPECS = (
    _spec("plate-slide-v3", slide_v2),
    _spec("plate-slide-back-v3", drag_v2),
    _spec("plate-slide-side-v3", drag_v2),
    _spec("plate-slide-back-side-v3", drag_v2),
)
