"""The drawer: drawer-open-v3 and drawer-close-v3."""

from __future__ import annotations

from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import NO_QUATERNION, TaskSpec
from mtrl.envs.metaworld.tasks.kernels import along, distance, scaled_distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

# Meta-World's task defines a radius of 4 cm under another name, so the 5 cm of its base class apply.
_CLOSE_RADIUS = 0.05
_SCALE = (3.0, 3.0, 1.0)


def _open_handle(s: State) -> Vector:
    return *kernels.plus(s.link, (0.0, -0.16, 0.0)), *s.link_quaternion


def _close_handle(s: State) -> Vector:
    return *kernels.plus(s.link, (0.0, -0.16, 0.05)), *NO_QUATERNION


def drawer_open_v2(s: State) -> Outcome:
    """Rewards a gripper near the handle, with more weight on x and y than on z, and a handle near its goal."""
    gripper, handle, opened = s.observation[:3], s.observation[4:7], s.observation[3]
    error = distance(handle, s.target)
    opening = within(error, 0.02, s.longest)
    handle_init = (s.target[0], s.target[1] + s.longest, s.target[2])
    caging = within(scaled_distance(handle, gripper, _SCALE), 0.01, scaled_distance(handle_init, s.init_tcp, _SCALE))
    near = distance(handle, gripper) <= 0.03
    return Outcome((caging + opening) * 5.0, error <= 0.03, near, opened > 0, caging, opening, error)


def drawer_close_v2(s: State) -> Outcome:
    """Rewards a closed gripper at the handle and a handle near its goal; 10 at the goal."""
    handle = s.observation[4:7]
    to_target, to_obj = distance(handle, s.target), distance(handle, s.tcp)
    in_place = within(to_target, _CLOSE_RADIUS, abs(distance(s.obj_init, s.target) - _CLOSE_RADIUS))
    near = within(to_obj, 0.005, abs(distance(s.obj_init, s.init_tcp) - 0.005), "gaussian")
    reach, reward = kernels.closed_and_near(s, near, in_place)
    success = to_target <= _CLOSE_RADIUS + 0.015
    return Outcome(10.0 if success else reward, success, to_obj <= 0.01, 1.0, reach, in_place, to_target)


_LINK = {"link": "body.drawer_link.xpos"}
_QUATERNION = {"link_quaternion": "body.drawer_link.xquat"}
_LONGEST = {"longest": "maxDist"}
_OPEN_V1 = partial(kernels.move_v1, partial(along, 1), 0.03)
_CLOSE_V1 = partial(kernels.move_v1, partial(along, 1), _CLOSE_RADIUS + 0.015, grasp_success=1.0)

SPECS = (
    TaskSpec("drawer-open-v3", _open_handle, drawer_open_v2, _OPEN_V1, _LINK | _QUATERNION, _LONGEST),
    TaskSpec("drawer-close-v3", _close_handle, drawer_close_v2, _CLOSE_V1, _LINK, _LONGEST),
)
