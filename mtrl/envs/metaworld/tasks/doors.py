"""Doors and their lock: door-open-v3, door-close-v3, door-lock-v3, door-unlock-v3."""

from __future__ import annotations

import math
from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, hamacher, plus, scaled_distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

_SHOULDER = (0.0, 0.055, 0.07)
_LOCK_SCALE = (0.25, 1.0, 0.5)
_LOCK_LENGTH = 0.1


def door_open_v2(s: State) -> Outcome:
    """Rewards a closed gripper between handle and door, and the door's angle; 10 when it is open."""
    hand, handle = s.observation[:3], s.observation[4:7]
    floor = kernels.above_floor(hand, plus(handle, (-0.05, 0.0, 0.0)), 0.12)
    behind = kernels.length(hand[0] - handle[0], hand[1] - handle[1] - 0.03, hand[2] - handle[2] + 0.01)
    ready = hamacher(floor, within(behind, 0.06, 0.5))

    closed = math.pi / 2.0 + math.pi / 6.0 + s.door_angle
    swung = kernels.tolerance(closed, 0.0, 0.5, math.pi / 3.0)
    opened = 0.2 * float(s.door_angle < -math.pi / 90.0) + 0.8 * swung

    grab = kernels.grab_effort(s)
    reward = 2.0 * hamacher(ready, grab) + 8.0 * opened
    success = abs(handle[0] - s.target[0]) <= 0.08
    return Outcome(10.0 if success else reward, success, ready, grab >= 0.5, grab, opened, 0.0)


def _swing_v1(s: State) -> tuple[float, float]:
    """The v1 reward of both doors, and the handle's planar distance to its goal."""
    handle = s.observation[4:7]
    pulling = kernels.distance_xy(handle, s.target)
    return kernels.reach_then_move(distance(handle, s.tcp), pulling, s.longest), pulling


def door_open_v1(s: State) -> Outcome:
    """Reach the handle, then pull it."""
    reward, _ = _swing_v1(s)
    return Outcome(reward, abs(s.observation[4] - s.target[0]) <= 0.08, 0.0, 0.0, 0.0, 0.0, 0.0)


def door_close_v2(s: State) -> Outcome:
    """Rewards fingers and a handle near the handle's goal; 10 at the goal."""
    handle = s.observation[4:7]
    to_target = distance(handle, s.target)
    in_place = within(to_target, 0.05, distance(s.obj_init, s.target), "gaussian")
    hand_in_place = within(distance(s.tcp, s.target), 0.0125, distance(s.hand_init, handle) + 0.1, "gaussian")
    reward = 10.0 if to_target < 0.05 else 3.0 * hand_in_place + 6.0 * in_place
    return Outcome(reward, to_target <= 0.08, 0.0, 1.0, 1.0, hand_in_place, to_target)


def door_close_v1(s: State) -> Outcome:
    """Reach the handle, then push it."""
    reward, pulling = _swing_v1(s)
    return Outcome(reward, pulling <= 0.08, 0.0, 1.0, 1.0, 0.0, pulling)


def door_lock_v2(s: State) -> Outcome:
    """Rewards an open gripper near the lock, and lowering the lock.

    As in Meta-World, the margin of the gripper's closeness is its current distance, not that at the start.
    """
    lock, opened = s.observation[4:7], s.observation[3]
    to_lock = scaled_distance(lock, s.left_pad, _LOCK_SCALE)
    near = within(to_lock, 0.01, to_lock)
    to_target = abs(s.target[2] - lock[2])
    pressed = within(to_target, 0.005, _LOCK_LENGTH)
    reward = 2.0 * hamacher(max(opened, 0.0), near) + 8.0 * pressed
    return Outcome(reward, to_target <= 0.02, to_lock <= 0.05, opened > 0, near, pressed, to_target)


def door_unlock_v2(s: State) -> Outcome:
    """Rewards a point behind and above the fingers (`_SHOULDER`) near the lock, and moving the lock in x."""
    gripper, lock = s.observation[:3], s.observation[4:7]
    to_lock = scaled_distance(plus(gripper, _SHOULDER), lock, _LOCK_SCALE)
    ready = within(to_lock, 0.02, scaled_distance(plus(s.init_tcp, _SHOULDER), s.obj_init, _LOCK_SCALE))
    to_target = abs(s.target[0] - lock[0])
    pushed = within(to_target, 0.005, _LOCK_LENGTH)
    reward = 2.0 * ready + 8.0 * pushed
    return Outcome(reward, to_target <= 0.02, to_lock <= 0.05, s.observation[3] > 0, ready, pushed, to_target)


_DOOR = {"obj": "geom.handle.xpos", "obj_matrix": "geom.handle.xmat"}
_LOCK = {"obj_init": "body.lock_link.xpos", "obj_quaternion": "body.door_link.xquat"}
_ANGLE = {"door_angle": "joint.doorjoint.qpos"}
_LONGEST = {"longest": "maxPullDist"}
_TURN_V1 = partial(kernels.move_v1, distance, 0.02)

SPECS = (
    TaskSpec("door-open-v3", posed_by_matrix, door_open_v2, door_open_v1, _DOOR | _ANGLE, _LONGEST),
    TaskSpec("door-close-v3", posed_by_matrix, door_close_v2, door_close_v1, _DOOR, _LONGEST),
    TaskSpec("door-lock-v3", posed, door_lock_v2, _TURN_V1, _LOCK | {"obj": "site.lockStartLock.xpos"}, _LONGEST),
    TaskSpec("door-unlock-v3", posed, door_unlock_v2, _TURN_V1, _LOCK | {"obj": "site.lockStartUnlock.xpos"}, _LONGEST),
)
