"""Turning handles: faucet-open-v3, faucet-close-v3, dial-turn-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, Reward, TaskSpec

_RADIUS = 0.07
_CONSTANTS = {"max_pull": "maxPullDist"}


def _faucet_handle(s: Inputs) -> tuple[Array, ...]:
    handle = s["handle"]
    return handle + kernels.constant((0.0, 0.0, -0.01)), s["faucet_quaternion"]


def faucet_v2(grip_offset: tuple[float, float, float]) -> Reward:
    """Closeness of the fingers and of the goal to the handle's end, moved by ``grip_offset``; 10 at the goal."""

    def reward(s: Inputs) -> Outcome:
        handle = s.observation[..., 4:7]
        handle = handle + kernels.constant(grip_offset)
        to_target = kernels.distance(handle, s.target)
        to_target_init = kernels.distance(s.obj_init, s.target)
        in_place = kernels.within(to_target, _RADIUS, abs(to_target_init - _RADIUS))
        to_handle = kernels.distance(handle, s.tcp)
        margin = abs(kernels.distance(s.obj_init, s.init_tcp) - 0.01)
        reach = kernels.within(to_handle, 0.01, margin, "gaussian")
        success = to_target <= _RADIUS
        return Outcome(
            reward=np.where(success, 10.0, (2.0 * reach + 3.0 * in_place) * 2.0),
            success=success,
            near_object=to_handle <= 0.01,
            grasp_success=1.0,
            grasp_reward=reach,
            in_place_reward=in_place,
            obj_to_target=to_target,
        )

    return reward


def faucet_v1(s: Inputs) -> Outcome:
    """Reach the handle, then turn it; the reported gripper error is 0."""
    handle = s.observation[..., 4:7]
    pulling = kernels.distance(handle, s.target)
    reward = kernels.reach_then_move(kernels.distance(handle, s.tcp), pulling, s["max_pull"])
    return Outcome(reward, pulling <= _RADIUS, 1.0, 1.0, 0.0, 0.0, pulling)


def _dial_mark(s: Inputs) -> tuple[Array, ...]:
    """The mark on the dial's rim, which no body or site of the model follows."""
    angle = s["dial_angle"]
    direction = np.stack((np.sin(angle), -np.cos(angle), 0.0 * angle), -1)
    return s["dial"] + direction * 0.05, s["dial_quaternion"]


def dial_turn_v2(s: Inputs) -> Outcome:
    """Closeness of the closed gripper to the place to push from and of the mark to its goal, together."""
    mark = s.observation[..., 4:7]
    to_target = kernels.distance(mark, s.target)
    margin = abs(kernels.distance(s["push_init"], s.target) - _RADIUS)
    in_place = kernels.within(to_target, _RADIUS, margin)

    to_push = kernels.distance(mark + kernels.constant((0.05, 0.02, 0.09)), s.tcp)
    reach_margin = abs(kernels.distance(s["push_init"], s.init_tcp) - 0.005)
    near = kernels.within(to_push, 0.005, reach_margin, "gaussian")
    closed, single = kernels.closed_effort(s.action)
    reach = kernels.mixed(single, kernels.hamacher, near, kernels.cast(closed, np.float64))
    reward = kernels.mixed(single, lambda a, b: 10.0 * kernels.hamacher(a, b), reach, in_place)
    return Outcome(reward, to_target <= _RADIUS, to_push <= 0.01, 1.0, reach, in_place, to_target)


def dial_turn_v1(s: Inputs) -> Outcome:
    """Reach the mark, then turn it in y, with sharper bonuses near the goal; the reported gripper error is 0."""
    mark = s.observation[..., 4:7]
    turning = abs(mark[..., 1] - s.target[..., 1])
    reach = kernels.distance(mark, s.tcp)
    turn = 1000 * (s["max_pull"] - turning) + kernels.near_bonus(turning, 1000.0, 0.001, 0.0001)
    reward = -reach + np.where(reach < 0.05, kernels.at_least(turn, 0.0), 0.0)
    return Outcome(reward, turning <= _RADIUS, 1.0, 1.0, 0.0, 0.0, turning)


def _faucet(name: str, handle: str, grip_offset: tuple[float, float, float]) -> TaskSpec:
    return TaskSpec(
        name=name,
        objects=_faucet_handle,
        reward_v2=faucet_v2(grip_offset),
        reward_v1=faucet_v1,
        probes={"handle": f"site.{handle}.xpos", "faucet_quaternion": "body.faucetBase.xquat"},
        constants=_CONSTANTS,
    )


SPECS = (
    _faucet("faucet-open-v3", "handleStartOpen", (-0.04, 0.0, 0.03)),
    _faucet("faucet-close-v3", "handleStartClose", (0.0, 0.0, 0.0)),
    TaskSpec(
        name="dial-turn-v3",
        objects=_dial_mark,
        reward_v2=dial_turn_v2,
        reward_v1=dial_turn_v1,
        probes={
            "dial": "body.dial.xpos",
            "dial_quaternion": "body.dial.xquat",
            "dial_angle": "joint.knob_Joint_1.qpos",
        },
        constants={**_CONSTANTS, "push_init": "dial_push_position"},
    ),
)
