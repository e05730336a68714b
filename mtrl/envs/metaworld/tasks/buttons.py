"""Pressing a button: button-press-v3, its wall and topdown variants, and coffee-button-v3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, Reward, TaskSpec


@dataclass(frozen=True)
class _Button:
    """One button; lengths in metres.

    Args:
        axis: the coordinate along which it moves.
        success: the remaining way at which it counts as pressed.
        near_radius: where the closeness of the gripper is full.
        contact: from where pressing is rewarded.
        weights: of the gripper at the button and of pressing.
        want_closed: whether the gripper should be closed; otherwise open, although the package calls that closed.
    """

    axis: int
    success: float
    near_radius: float
    contact: float = 0.05
    weights: tuple[float, float] = (2.0, 8.0)
    want_closed: bool = False


def _front(s: Inputs) -> tuple[Array, ...]:
    body = s["body"]
    return body + kernels.constant((0.0, -0.193, 0.0)), s["body_quaternion"]


def _top(s: Inputs) -> tuple[Array, ...]:
    body = s["body"]
    return body + kernels.constant((0.0, 0.0, 0.193)), s["body_quaternion"]


def _coffee(s: Inputs) -> tuple[Array, ...]:
    return s["start"], kernels.constant((1.0, 0.0, 0.0, 0.0))


def _closeness(s: Inputs, button: _Button) -> tuple[Array, ...]:
    """Gripper to button, remaining way, closeness of the gripper, closeness of the button to being pressed."""
    obj = s.observation[..., 4:7]
    to_obj = kernels.distance(obj, s.tcp)
    to_target = abs(s.target[..., button.axis] - obj[..., button.axis])
    # The margin follows the button as it moves: the package measures from where it is now.
    near = kernels.within(to_obj, button.near_radius, kernels.distance(obj, s.init_tcp))
    return to_obj, to_target, near, kernels.within(to_target, 0.005, s["press_margin"])


def _outcome(
    button: _Button, s: Inputs, reward: Array, to_obj: Array, to_target: Array, near: Array, pressed: Array
) -> Outcome:
    return Outcome(
        reward=reward,
        success=to_target <= button.success,
        near_object=to_obj <= 0.05,
        grasp_success=s.observation[..., 3] > 0,
        grasp_reward=near,
        in_place_reward=pressed,
        obj_to_target=to_target,
    )


def press_v2(button: _Button, s: Inputs) -> Outcome:
    """The gripper's opening and closeness together, and pressing once at the button."""
    to_obj, to_target, near, pressed = _closeness(s, button)
    opened = s.observation[..., 3]
    gripper = 1 - opened if button.want_closed else kernels.at_least(opened, 0.0)
    approach, press = button.weights
    reward = approach * kernels.hamacher(gripper, near) + np.where(to_obj <= button.contact, press * pressed, 0.0)
    return _outcome(button, s, reward, to_obj, to_target, near, pressed)


def press_behind_wall_v2(button: _Button, s: Inputs) -> Outcome:
    """Come with a closed gripper; at the button, open it and press."""
    to_obj, to_target, near, pressed = _closeness(s, button)
    opened = s.observation[..., 3]
    approach = 2 * kernels.hamacher((1 - opened) / 2.0, near)
    press = 2 + 2 * (1 + opened) + 4 * (pressed * pressed)
    return _outcome(button, s, np.where(to_obj > button.contact, approach, press), to_obj, to_target, near, pressed)


def _press_v1(button: _Button, s: Inputs, fingers: Array) -> Outcome:
    obj = s.observation[..., 4:7]
    remaining = abs(obj[..., button.axis] - s.target[..., button.axis])
    reward = kernels.reach_then_move(kernels.distance(obj, fingers), remaining, s["max_distance"])
    return Outcome(reward, remaining <= button.success, 1.0, 0.0, 0.0, 0.0, remaining)


def press_front_v1(button: _Button, s: Inputs) -> Outcome:
    """Reach the button with the left finger, then press; the reported gripper error and opening are 0."""
    return _press_v1(button, s, s.tips[..., 0, :])


def press_top_v1(button: _Button, s: Inputs) -> Outcome:
    """Reach the button with the middle of the fingers, then press; the reported error and opening are 0."""
    return _press_v1(button, s, s.tcp)


_BODY = {"body": "body.button.xpos", "body_quaternion": "body.button.xquat"}
_BOX = {"press_margin": "_obj_to_target_init", "max_distance": "maxDist"}


def _front_spec(name: str, button: _Button, reward_v2: Reward) -> TaskSpec:
    return TaskSpec(name, _front, reward_v2, partial(press_front_v1, button), _BODY, _BOX)


def _top_spec(name: str, button: _Button) -> TaskSpec:
    return TaskSpec(name, _top, partial(press_v2, button), partial(press_top_v1, button), _BODY, _BOX)


_FRONT = _Button(axis=1, success=0.02, near_radius=0.05)
_BEHIND_WALL = _Button(axis=1, success=0.03, near_radius=0.01, contact=0.07)
_TOPDOWN = _Button(axis=2, success=0.024, near_radius=0.01, contact=0.03, weights=(5.0, 5.0), want_closed=True)
_TOPDOWN_WALL = _Button(axis=2, success=0.024, near_radius=0.01, contact=0.03, weights=(5.0, 5.0))

SPECS = (
    _front_spec("button-press-v3", _FRONT, partial(press_v2, _FRONT)),
    _front_spec("button-press-wall-v3", _BEHIND_WALL, partial(press_behind_wall_v2, _BEHIND_WALL)),
    _top_spec("button-press-topdown-v3", _TOPDOWN),
    _top_spec("button-press-topdown-wall-v3", _TOPDOWN_WALL),
    TaskSpec(
        name="coffee-button-v3",
        objects=_coffee,
        reward_v2=partial(press_v2, _FRONT),
        reward_v1=partial(press_front_v1, _FRONT),
        probes={"start": "site.buttonStart.xpos"},
        constants={"press_margin": "max_dist", "max_distance": "maxDist"},
    ),
)
