"""Pulling a lever up: lever-pull-v3."""

from __future__ import annotations

import math

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, plus, scaled_distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

_UPRIGHT = math.pi / 2.0
_SUCCESS = math.pi / 24.0
_SHOULDER, _SCALE = (0.0, 0.055, 0.07), (4.0, 1.0, 4.0)


def lever_pull_v2(s: State) -> Outcome:
    """Rewards an arm near the lever, together with a lever near its goal.

    The arm's shoulder, not the fingers, should go under the lever: hence the offset and the weights of the axes.
    """
    gripper, lever = s.observation[:3], s.observation[4:7]
    to_lever = scaled_distance(plus(gripper, _SHOULDER), lever, _SCALE)
    ready = within(to_lever, 0.02, scaled_distance(plus(s.init_tcp, _SHOULDER), s.lever_init, _SCALE))
    angle_error = abs(-s.lever_angle - _UPRIGHT)
    engaged = within(angle_error, math.pi / 48.0, _UPRIGHT - math.pi / 12.0)
    in_place = within(distance(lever, s.target), 0.04, distance(s.lever_init, s.target))
    reward = 10.0 * kernels.hamacher(ready, in_place)
    return Outcome(reward, angle_error <= _SUCCESS, to_lever < 0.03, ready > 0.9, ready, engaged, to_lever)


def lever_pull_v1(s: State) -> Outcome:
    """Reach the lever, then pull it.

    As in Meta-World, success compares the distance in metres with a bound for angles. ``near_object`` is always 1, and
    the other terms are 0.
    """
    lever = s.observation[4:7]
    remaining = distance(lever, s.target)
    reward = kernels.reach_then_move(distance(lever, s.tcp), remaining, s.longest)
    return Outcome(reward, remaining <= _SUCCESS, 1.0, 0.0, 0.0, 0.0, 0.0)


_LEVER = {"obj": "site.leverStart.xpos", "obj_matrix": "geom.objGeom.xmat", "lever_angle": "joint.LeverAxis.qpos"}
_CONSTANTS = {"lever_init": "_lever_pos_init", "longest": "maxPullDist"}

SPECS = (TaskSpec("lever-pull-v3", posed_by_matrix, lever_pull_v2, lever_pull_v1, _LEVER, _CONSTANTS),)
