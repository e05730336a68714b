"""Pressing a button: button-press-v3, its wall and topdown variants, and coffee-button-v3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Reward, TaskSpec
from mtrl.envs.metaworld.tasks.kernels import along, distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector


@dataclass(frozen=True)
class _Button:
    """One button; lengths in metres.

    Args:
        axis: the index of the coordinate along which it moves.
        success: the remaining distance at which it counts as pressed.
        near_radius: the gripper's distance below which its closeness is 1.
        contact: the gripper's distance below which pressing is rewarded.
        weights: in `press_v2`, the rewards for the gripper at the button, and for pressing it.
        want_closed: in `press_v2`, whether a closed gripper is rewarded. If not, an open one is, although Meta-World
            calls that value ``tcp_closed``.
    """

    axis: int
    success: float
    near_radius: float
    contact: float = 0.05
    weights: tuple[float, float] = (2.0, 8.0)
    want_closed: bool = False


def _front(s: State) -> Vector:
    return *kernels.plus(s.body, (0.0, -0.193, 0.0)), *s.body_quaternion


def _top(s: State) -> Vector:
    return *kernels.plus(s.body, (0.0, 0.0, 0.193)), *s.body_quaternion


def _coffee(s: State) -> Vector:
    return *s.start, 1.0, 0.0, 0.0, 0.0


def _closeness(button: _Button, s: State) -> tuple[float, float, float, float]:
    """Gripper's distance, remaining distance, closeness of the gripper, and how far the button is pressed."""
    obj = s.observation[4:7]
    to_obj = distance(obj, s.tcp)
    to_target = abs(s.target[button.axis] - obj[button.axis])
    # The margin follows the button as it moves, since Meta-World measures from the button's current position.
    near = within(to_obj, button.near_radius, distance(obj, s.init_tcp))
    return to_obj, to_target, near, within(to_target, 0.005, s.press_margin)


def _outcome(
    button: _Button, s: State, reward: float, to_obj: float, to_target: float, near: float, pressed: float
) -> Outcome:
    opened = s.observation[3] > 0
    return Outcome(reward, to_target <= button.success, to_obj <= 0.05, opened, near, pressed, to_target)


def press_v2(button: _Button, s: State) -> Outcome:
    """Rewards a gripper near the button, open or closed as it should be, and, at the button, pressing."""
    to_obj, to_target, near, pressed = _closeness(button, s)
    opened = s.observation[3]
    gripper = 1 - opened if button.want_closed else max(opened, 0.0)
    approach, press = button.weights
    reward = approach * kernels.hamacher(gripper, near) + (press * pressed if to_obj <= button.contact else 0.0)
    return _outcome(button, s, reward, to_obj, to_target, near, pressed)


def press_behind_wall_v2(button: _Button, s: State) -> Outcome:
    """Rewards a closed gripper near the button and, at the button, opening the gripper and pressing."""
    to_obj, to_target, near, pressed = _closeness(button, s)
    opened = s.observation[3]
    if to_obj > button.contact:
        reward = 2 * kernels.hamacher((1 - opened) / 2.0, near)
    else:
        reward = 2 + 2 * (1 + opened) + 4 * (pressed * pressed)
    return _outcome(button, s, reward, to_obj, to_target, near, pressed)


_BODY = {"body": "body.button.xpos", "body_quaternion": "body.button.xquat"}
_START = {"start": "site.buttonStart.xpos"}
_BOX = {"press_margin": "_obj_to_target_init", "longest": "maxDist"}
_COFFEE = {"press_margin": "max_dist", "longest": "maxDist"}


def _press_v1(button: _Button, left: bool) -> Reward:
    return partial(kernels.move_v1, partial(along, button.axis), button.success, left=left)


def _front_spec(name: str, button: _Button, reward_v2: Reward) -> TaskSpec:
    return TaskSpec(name, _front, reward_v2, _press_v1(button, left=True), _BODY, _BOX)


def _top_spec(name: str, button: _Button) -> TaskSpec:
    return TaskSpec(name, _top, partial(press_v2, button), _press_v1(button, left=False), _BODY, _BOX)


_FRONT = _Button(axis=1, success=0.02, near_radius=0.05)
_BEHIND_WALL = _Button(axis=1, success=0.03, near_radius=0.01, contact=0.07)
_TOPDOWN = _Button(axis=2, success=0.024, near_radius=0.01, contact=0.03, weights=(5.0, 5.0), want_closed=True)
_TOPDOWN_WALL = _Button(axis=2, success=0.024, near_radius=0.01, contact=0.03, weights=(5.0, 5.0))

SPECS = (
    _front_spec("button-press-v3", _FRONT, partial(press_v2, _FRONT)),
    _front_spec("button-press-wall-v3", _BEHIND_WALL, partial(press_behind_wall_v2, _BEHIND_WALL)),
    _top_spec("button-press-topdown-v3", _TOPDOWN),
    _top_spec("button-press-topdown-wall-v3", _TOPDOWN_WALL),
    TaskSpec("coffee-button-v3", _coffee, partial(press_v2, _FRONT), _press_v1(_FRONT, left=True), _START, _COFFEE),
)
