"""Pulling a lever up: lever-pull-v3."""

from __future__ import annotations

import math

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec

_UPRIGHT = math.pi / 2.0
_SUCCESS = math.pi / 24.0


def _lever(s: Inputs) -> tuple[Array, ...]:
    return s["lever"], kernels.quaternion(s["lever_matrix"])


def lever_pull_v2(s: Inputs) -> Outcome:
    """Closeness of the arm to the lever and of the lever to its goal together.

    The arm's shoulder, not the fingers, goes under the lever: hence the offset, and the weights of the axes.
    """
    gripper, lever, start = s.observation[..., :3], s.observation[..., 4:7], s["lever_init"]
    offset = kernels.constant((0.0, 0.055, 0.07))
    scale = kernels.constant((4.0, 1.0, 4.0))
    to_lever = kernels.norm((gripper + offset - lever) * scale)
    ready = kernels.within(to_lever, 0.02, kernels.norm((s.init_tcp + offset - start) * scale))

    angle_error = abs(-s["angle"] - _UPRIGHT)
    engaged = kernels.within(angle_error, math.pi / 48.0, _UPRIGHT - math.pi / 12.0)
    to_target = kernels.distance(lever, s.target)
    in_place = kernels.within(to_target, 0.04, kernels.distance(start, s.target))
    return Outcome(
        reward=10.0 * kernels.hamacher(ready, in_place),
        success=angle_error <= _SUCCESS,
        near_object=to_lever < 0.03,
        grasp_success=ready > 0.9,
        grasp_reward=ready,
        in_place_reward=engaged,
        obj_to_target=to_lever,
    )


def lever_pull_v1(s: Inputs) -> Outcome:
    """Reach the lever, then pull it; success takes the distance in metres for the angle, the rest is 0."""
    obj = s.observation[..., 4:7]
    remaining = kernels.distance(obj, s.target)
    reward = kernels.reach_then_move(kernels.distance(obj, s.tcp), remaining, s["max_pull"])
    return Outcome(reward, remaining <= _SUCCESS, 1.0, 0.0, 0.0, 0.0, 0.0)


SPECS = (
    TaskSpec(
        name="lever-pull-v3",
        objects=_lever,
        reward_v2=lever_pull_v2,
        reward_v1=lever_pull_v1,
        probes={
            "lever": "site.leverStart.xpos",
            "lever_matrix": "geom.objGeom.xmat",
            "angle": "joint.LeverAxis.qpos",
        },
        constants={"lever_init": "_lever_pos_init", "max_pull": "maxPullDist"},
    ),
)
