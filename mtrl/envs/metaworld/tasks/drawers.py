"""The drawer: drawer-open-v3 and drawer-close-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec

# The package's task defines a radius of 4 cm under another name and so uses the 5 cm of its base class.
_CLOSE_RADIUS = 0.05


def _open_handle(s: Inputs) -> tuple[Array, ...]:
    link = s["link"]
    return link + kernels.constant((0.0, -0.16, 0.0)), s["link_quaternion"]


def _close_handle(s: Inputs) -> tuple[Array, ...]:
    link = s["link"]
    return link + kernels.constant((0.0, -0.16, 0.05)), kernels.constant((0.0, 0.0, 0.0, 0.0))


def drawer_open_v2(s: Inputs) -> Outcome:
    """Closeness of the gripper to the handle, x and y weighing more than z, and of the handle to its goal."""
    gripper, handle = s.observation[..., :3], s.observation[..., 4:7]
    handle_error = kernels.distance(handle, s.target)
    opening = kernels.within(handle_error, 0.02, s["max_distance"])

    # Adding the zero vector's x and z is exact, so only the y of the goal moves.
    handle_init = s.target + s["max_distance"][..., None] * kernels.constant((0.0, 1.0, 0.0))
    scale = kernels.constant((3.0, 3.0, 1.0))
    error = kernels.norm((handle - gripper) * scale)
    caging = kernels.within(error, 0.01, kernels.norm((handle_init - s.init_tcp) * scale))
    return Outcome(
        reward=(caging + opening) * 5.0,
        success=handle_error <= 0.03,
        near_object=kernels.distance(handle, gripper) <= 0.03,
        grasp_success=s.observation[..., 3] > 0,
        grasp_reward=caging,
        in_place_reward=opening,
        obj_to_target=handle_error,
    )


def drawer_open_v1(s: Inputs) -> Outcome:
    """Reach the handle, then pull it in y; the reported gripper error and opening are 0."""
    handle = s.observation[..., 4:7]
    pulling = abs(handle[..., 1] - s.target[..., 1])
    reach = kernels.distance(handle, s.tcp)
    reward = kernels.reach_then_move(reach, pulling, s["max_distance"])
    return Outcome(reward, pulling <= 0.03, 1.0, 0.0, 0.0, 0.0, pulling)


def drawer_close_v2(s: Inputs) -> Outcome:
    """Closeness of the closed gripper and of the handle to its goal together, 10 at the goal."""
    handle = s.observation[..., 4:7]
    to_target = kernels.distance(handle, s.target)
    to_target_init = kernels.distance(s.obj_init, s.target)
    in_place = kernels.within(to_target, _CLOSE_RADIUS, abs(to_target_init - _CLOSE_RADIUS))

    to_obj = kernels.distance(handle, s.tcp)
    margin = abs(kernels.distance(s.obj_init, s.init_tcp) - 0.005)
    closed, single = kernels.closed_effort(s.action)
    near = kernels.within(to_obj, 0.005, margin, "gaussian")
    reach = kernels.mixed(single, kernels.hamacher, near, kernels.cast(closed, np.float64))
    reward = kernels.mixed(single, lambda a, b: kernels.hamacher(a, b) * 10, reach, in_place)
    success = to_target <= _CLOSE_RADIUS + 0.015
    return Outcome(
        reward=np.where(success, 10.0, reward),
        success=success,
        near_object=to_obj <= 0.01,
        grasp_success=1.0,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def drawer_close_v1(s: Inputs) -> Outcome:
    """Reach the handle, then push it in y; the reported gripper error is 0."""
    handle = s.observation[..., 4:7]
    remaining = abs(handle[..., 1] - s.target[..., 1])
    reward = kernels.reach_then_move(kernels.distance(handle, s.tcp), remaining, s["max_distance"])
    return Outcome(reward, remaining <= _CLOSE_RADIUS + 0.015, 1.0, 1.0, 0.0, 0.0, remaining)


SPECS = (
    TaskSpec(
        name="drawer-open-v3",
        objects=_open_handle,
        reward_v2=drawer_open_v2,
        reward_v1=drawer_open_v1,
        probes={"link": "body.drawer_link.xpos", "link_quaternion": "body.drawer_link.xquat"},
        constants={"max_distance": "maxDist"},
    ),
    TaskSpec(
        name="drawer-close-v3",
        objects=_close_handle,
        reward_v2=drawer_close_v2,
        reward_v1=drawer_close_v1,
        probes={"link": "body.drawer_link.xpos"},
        constants={"max_distance": "maxDist"},
    ),
)
