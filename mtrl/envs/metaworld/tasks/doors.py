"""Doors and their lock: door-open-v3, door-close-v3, door-lock-v3, door-unlock-v3."""

from __future__ import annotations

import math

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec

_LOCK_SCALE = (0.25, 1.0, 0.5)
_LOCK_LENGTH = 0.1


def _handle(s: Inputs) -> tuple[Array, ...]:
    return s["handle"], kernels.quaternion(s["handle_matrix"])


def _lock(s: Inputs) -> tuple[Array, ...]:
    return s["lock"], s["door_quaternion"]


def door_open_v2(s: Inputs) -> Outcome:
    """The closed gripper ready between handle and door, and the angle of the door; 10 when it is open."""
    hand, handle = s.observation[..., :3], s.observation[..., 4:7]
    floor = kernels.above_floor(hand, handle + kernels.constant((-0.05, 0.0, 0.0)), 0.12)
    behind = kernels.norm(hand - handle - kernels.constant((0.0, 0.03, -0.01)))
    ready = kernels.hamacher(floor, kernels.within(behind, 0.06, 0.5))

    angle = s["door_angle"]
    closed = math.pi / 2.0 + math.pi / 6.0 + angle
    swung = kernels.tolerance(closed, (0.0, 0.5), math.pi / 3.0)
    opened = 0.2 * kernels.indicator(angle < -math.pi / 90.0) + 0.8 * swung

    grab = kernels.grab_effort(s.action)
    reward = 2.0 * kernels.hamacher(ready, grab) + 8.0 * opened
    success = abs(handle[..., 0] - s.target[..., 0]) <= 0.08
    return Outcome(np.where(success, 10.0, reward), success, ready, grab >= 0.5, grab, opened, 0.0)


def _swing_v1(s: Inputs) -> tuple[Array, Array]:
    """The v1 reward of both doors, and how far the handle is from its goal in the plane."""
    handle = s.observation[..., 4:7]
    pulling = kernels.distance(handle[..., :2], s.target[..., :2])
    return kernels.reach_then_move(kernels.distance(handle, s.tcp), pulling, s["max_pull"]), pulling


def door_open_v1(s: Inputs) -> Outcome:
    """Reach the handle, then pull it; the reported grasp is 0."""
    reward, _ = _swing_v1(s)
    success = abs(s.observation[..., 4] - s.target[..., 0]) <= 0.08
    return Outcome(reward, success, 0.0, 0.0, 0.0, 0.0, 0.0)


def door_close_v2(s: Inputs) -> Outcome:
    """Closeness of the fingers and of the handle to the handle's goal, 10 at the goal."""
    handle = s.observation[..., 4:7]
    to_target = kernels.distance(handle, s.target)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target), "gaussian")
    hand_margin = kernels.distance(s.hand_init, handle) + 0.1
    hand_in_place = kernels.within(kernels.distance(s.tcp, s.target), 0.0125, hand_margin, "gaussian")
    return Outcome(
        reward=np.where(to_target < 0.05, 10.0, 3.0 * hand_in_place + 6.0 * in_place),
        success=to_target <= 0.08,
        near_object=0.0,
        grasp_success=1.0,
        grasp_reward=1.0,
        in_place_reward=hand_in_place,
        obj_to_target=to_target,
    )


def door_close_v1(s: Inputs) -> Outcome:
    """Reach the handle, then push it."""
    reward, pulling = _swing_v1(s)
    return Outcome(reward, pulling <= 0.08, 0.0, 1.0, 1.0, 0.0, pulling)


def door_lock_v2(s: Inputs) -> Outcome:
    """Closeness of the opened gripper to the lock, whose margin is the same (live) distance, and the lock's height."""
    lock, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_lock = kernels.norm((lock - s.pads[..., 0, :]) * kernels.constant(_LOCK_SCALE))
    near = kernels.within(to_lock, 0.01, to_lock)
    to_target = abs(s.target[..., 2] - lock[..., 2])
    pressed = kernels.within(to_target, 0.005, _LOCK_LENGTH)
    reward = 2.0 * kernels.hamacher(kernels.at_least(opened, 0.0), near) + 8.0 * pressed
    return Outcome(reward, to_target <= 0.02, to_lock <= 0.05, opened > 0, near, pressed, to_target)


def door_unlock_v2(s: Inputs) -> Outcome:
    """Closeness of the gripper's shoulder, above and behind the fingers, to the lock, and the lock's way in x."""
    gripper, lock = s.observation[..., :3], s.observation[..., 4:7]
    shoulder = kernels.constant((0.0, 0.055, 0.07))
    scale = kernels.constant(_LOCK_SCALE)
    to_lock = kernels.norm((gripper + shoulder - lock) * scale)
    margin = kernels.norm((s.init_tcp + shoulder - s.obj_init) * scale)
    ready = kernels.within(to_lock, 0.02, margin)
    to_target = abs(s.target[..., 0] - lock[..., 0])
    pushed = kernels.within(to_target, 0.005, _LOCK_LENGTH)
    reward = 2.0 * ready + 8.0 * pushed
    return Outcome(reward, to_target <= 0.02, to_lock <= 0.05, s.observation[..., 3] > 0, ready, pushed, to_target)


def turn_lock_v1(s: Inputs) -> Outcome:
    """Reach the lock, then turn it; the reported gripper error and opening are 0."""
    lock = s.observation[..., 4:7]
    pulling = kernels.distance(lock, s.target)
    reward = kernels.reach_then_move(kernels.distance(lock, s.tcp), pulling, s["max_pull"])
    return Outcome(reward, pulling <= 0.02, 1.0, 0.0, 0.0, 0.0, pulling)


_DOOR_PROBES = {"handle": "geom.handle.xpos", "handle_matrix": "geom.handle.xmat"}
_LOCK_PROBES = {"obj_init": "body.lock_link.xpos", "door_quaternion": "body.door_link.xquat"}
_CONSTANTS = {"max_pull": "maxPullDist"}

SPECS = (
    TaskSpec(
        name="door-open-v3",
        objects=_handle,
        reward_v2=door_open_v2,
        reward_v1=door_open_v1,
        probes={**_DOOR_PROBES, "door_angle": "joint.doorjoint.qpos"},
        constants=_CONSTANTS,
    ),
    TaskSpec(
        name="door-close-v3",
        objects=_handle,
        reward_v2=door_close_v2,
        reward_v1=door_close_v1,
        probes=_DOOR_PROBES,
        constants=_CONSTANTS,
    ),
    TaskSpec(
        name="door-lock-v3",
        objects=_lock,
        reward_v2=door_lock_v2,
        reward_v1=turn_lock_v1,
        probes={**_LOCK_PROBES, "lock": "site.lockStartLock.xpos"},
        constants=_CONSTANTS,
    ),
    TaskSpec(
        name="door-unlock-v3",
        objects=_lock,
        reward_v2=door_unlock_v2,
        reward_v1=turn_lock_v1,
        probes={**_LOCK_PROBES, "lock": "site.lockStartUnlock.xpos"},
        constants=_CONSTANTS,
    ),
)
