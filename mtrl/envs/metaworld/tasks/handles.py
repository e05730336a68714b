"""Pressing and pulling a handle, in front and sideways: handle-press(-side)-v3 and handle-pull(-side)-v3."""

from __future__ import annotations

from functools import partial

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec

_PRESS_RADIUS = 0.02
_PULL_RADIUS = 0.05


def _handle(s: Inputs) -> tuple[Array, ...]:
    return s["handle"], kernels.constant((0.0, 0.0, 0.0, 0.0))


def press_v2(s: Inputs) -> Outcome:
    """Closeness of the fingers and of the handle's height to its goal together, 10 at the goal."""
    obj, start = s.observation[..., 4:7], s["handle_init"]
    to_target = abs(obj[..., 2] - s.target[..., 2])
    to_target_init = abs(start[..., 2] - s.target[..., 2])
    in_place = kernels.within(to_target, _PRESS_RADIUS, abs(to_target_init - _PRESS_RADIUS))
    to_obj = kernels.distance(obj, s.tcp)
    reach = kernels.within(to_obj, 0.02, abs(kernels.distance(start, s.init_tcp) - 0.02))
    success = to_target <= _PRESS_RADIUS
    return Outcome(
        reward=np.where(success, 10.0, kernels.hamacher(reach, in_place) * 10),
        success=success,
        near_object=to_obj <= 0.05,
        grasp_success=1.0,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def _grasp(
    s: Inputs, to_target: Array, margin: Array, raised: Array, *, pad: float, radius: float
) -> tuple[Array, ...]:
    """Reward, gripper to handle, grasp and closeness to the goal; ``raised (...)`` marks where the bonus applies."""
    obj = s.observation[..., 4:7]
    in_place = kernels.within(to_target, _PULL_RADIUS, margin)
    grasped, single = kernels.gripper_caging(
        s, obj, pad_success_thresh=pad, obj_radius=radius, xz_thresh=0.01, high_density=True
    )
    to_obj = kernels.distance(obj, s.tcp)
    held = (to_obj < 0.035) & (s.observation[..., 3] > 0) & raised
    reward = kernels.carry(single, grasped, in_place, held, 5.0)
    return np.where(to_target < _PULL_RADIUS, 10.0, reward), to_obj, grasped, in_place


def _pulled(s: Inputs, success: Array, to_target: Array, graded: tuple[Array, ...]) -> Outcome:
    reward, to_obj, grasped, in_place = graded
    lifted = s.observation[..., 6] - 0.03 > s.obj_init[..., 2]
    return Outcome(reward, success, to_obj <= 0.05, (s.observation[..., 3] > 0) & lifted, grasped, in_place, to_target)


def pull_v2(s: Inputs) -> Outcome:
    """Grasp and closeness of the handle's height together, a bonus for holding it, 10 at the goal."""
    obj = s.observation[..., 4:7]
    to_target = abs(s.target[..., 2] - obj[..., 2])
    margin = abs(s.target[..., 2] - s.obj_init[..., 2])
    # The package compares the handle's y with the initial z, so in effect this always holds.
    raised = obj[..., 1] - 0.01 > s.obj_init[..., 2]
    graded = _grasp(s, to_target, margin, raised, pad=0.05, radius=0.022)
    return _pulled(s, to_target <= _PULL_RADIUS, to_target, graded)


def pull_side_v2(s: Inputs) -> Outcome:
    """As `pull_v2`, with the distance to the goal in space."""
    obj = s.observation[..., 4:7]
    to_target = kernels.distance(obj, s.target)
    margin = kernels.distance(s.obj_init, s.target)
    raised = obj[..., 2] - 0.01 > s.obj_init[..., 2]
    graded = _grasp(s, to_target, margin, raised, pad=0.06, radius=0.032)
    return _pulled(s, to_target <= 0.08, to_target, graded)


def move_v1(success: float, grasp_success: float, s: Inputs) -> Outcome:
    """Reach the handle with the left finger, then move it in height; the reported gripper error is 0."""
    obj = s.observation[..., 4:7]
    remaining = abs(obj[..., 2] - s.target[..., 2])
    reach = kernels.distance(obj, s.tips[..., 0, :])
    reward = kernels.reach_then_move(reach, remaining, s["max_distance"])
    return Outcome(reward, remaining <= success, 1.0, grasp_success, 0.0, 0.0, remaining)


_DISTANCE = {"max_distance": "maxDist"}


def _press_spec(name: str) -> TaskSpec:
    return TaskSpec(
        name=name,
        objects=_handle,
        reward_v2=press_v2,
        reward_v1=partial(move_v1, _PRESS_RADIUS, 1.0),
        probes={"handle": "site.handleStart.xpos"},
        constants={**_DISTANCE, "handle_init": "_handle_init_pos"},
    )


SPECS = (
    _press_spec("handle-press-v3"),
    _press_spec("handle-press-side-v3"),
    TaskSpec(
        name="handle-pull-v3",
        objects=_handle,
        reward_v2=pull_v2,
        reward_v1=partial(move_v1, _PULL_RADIUS, 0.0),
        probes={"handle": "site.handleRight.xpos"},
        constants=_DISTANCE,
    ),
    TaskSpec(
        name="handle-pull-side-v3",
        objects=_handle,
        reward_v2=pull_side_v2,
        reward_v1=partial(move_v1, 0.08, 0.0),
        probes={"handle": "site.handleCenter.xpos"},
        constants=_DISTANCE,
    ),
)
