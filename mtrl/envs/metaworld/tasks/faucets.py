"""Turning handles: faucet-open-v3, faucet-close-v3, dial-turn-v3."""

from __future__ import annotations

import math
from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec
from mtrl.envs.metaworld.tasks.kernels import distance, plus, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_RADIUS = 0.07


def _faucet_handle(s: State) -> Vector:
    return *plus(s.handle, (0.0, 0.0, -0.01)), *s.faucet_quaternion


def faucet_v2(grip_offset: Vector, s: State) -> Outcome:
    """Rewards fingers near the handle's end (plus ``grip_offset``), and that point near the goal; 10 at the goal."""
    handle = plus(s.observation[4:7], grip_offset)
    to_target, to_handle = distance(handle, s.target), distance(handle, s.tcp)
    in_place = within(to_target, _RADIUS, abs(distance(s.obj_init, s.target) - _RADIUS))
    reach = within(to_handle, 0.01, abs(distance(s.obj_init, s.init_tcp) - 0.01), "gaussian")
    success = to_target <= _RADIUS
    reward = 10.0 if success else (2.0 * reach + 3.0 * in_place) * 2.0
    return Outcome(reward, success, to_handle <= 0.01, 1.0, reach, in_place, to_target)


def _dial_mark(s: State) -> Vector:
    """The mark on the dial's rim, for which the model has no body or site."""
    x, y, z = math.sin(s.dial_angle), -math.cos(s.dial_angle), 0.0 * s.dial_angle
    return *plus(s.dial, (x * 0.05, y * 0.05, z * 0.05)), *s.dial_quaternion


def dial_turn_v2(s: State) -> Outcome:
    """Rewards a closed gripper at the point to push from, together with a mark near its goal."""
    mark = s.observation[4:7]
    to_target, to_push = distance(mark, s.target), distance(plus(mark, (0.05, 0.02, 0.09)), s.tcp)
    in_place = within(to_target, _RADIUS, abs(distance(s.push_init, s.target) - _RADIUS))
    near = within(to_push, 0.005, abs(distance(s.push_init, s.init_tcp) - 0.005), "gaussian")
    reach, reward = kernels.closed_and_near(s, near, in_place)
    return Outcome(reward, to_target <= _RADIUS, to_push <= 0.01, 1.0, reach, in_place, to_target)


def dial_turn_v1(s: State) -> Outcome:
    """Reach the mark, then bring it to the goal's y, with sharper bonuses near it."""
    mark = s.observation[4:7]
    turning = abs(mark[1] - s.target[1])
    reach = distance(mark, s.tcp)
    turn = 1000 * (s.longest - turning) + kernels.near_bonus(turning, 1000.0, 0.001, 0.0001)
    reward = -reach + (max(turn, 0.0) if reach < 0.05 else 0.0)
    return kernels.outcome_v1(reward, turning, _RADIUS, grasp_success=1.0)


_LONGEST = {"longest": "maxPullDist"}
_PUSH = {"push_init": "dial_push_position"}
_DIAL = {"dial": "body.dial.xpos", "dial_quaternion": "body.dial.xquat", "dial_angle": "joint.knob_Joint_1.qpos"}
_TURN_V1 = partial(kernels.move_v1, distance, _RADIUS, grasp_success=1.0)


def _faucet(name: str, handle: str, grip_offset: Vector) -> TaskSpec:
    probes = {"handle": f"site.{handle}.xpos", "faucet_quaternion": "body.faucetBase.xquat"}
    return TaskSpec(name, _faucet_handle, partial(faucet_v2, grip_offset), _TURN_V1, probes, _LONGEST)


SPECS = (
    _faucet("faucet-open-v3", "handleStartOpen", (-0.04, 0.0, 0.03)),
    _faucet("faucet-close-v3", "handleStartClose", (0.0, 0.0, 0.0)),
    TaskSpec("dial-turn-v3", _dial_mark, dial_turn_v2, dial_turn_v1, _DIAL, _LONGEST | _PUSH),
)
