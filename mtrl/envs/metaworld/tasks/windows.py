"""The sliding window: window-open-v3 and window-close-v3."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec

_RADIUS = 0.05
_HANDLE_RADIUS = 0.02


def _handle(s: Inputs) -> tuple[Array, ...]:
    return s["handle"], kernels.constant((0.0, 0.0, 0.0, 0.0))


def _slide(s: Inputs, start: Array, sigmoid: Literal["long_tail", "gaussian"]) -> Outcome:
    """Reward of sliding in x, with ``start (..., 3)`` as what the way is measured from."""
    obj, handle_init = s.observation[..., 4:7], s["handle_init"]
    to_target = abs(obj[..., 0] - s.target[..., 0])
    to_target_init = abs(start[..., 0] - s.target[..., 0])
    in_place = kernels.within(to_target, _RADIUS, abs(to_target_init - _RADIUS))
    to_obj = kernels.distance(obj, s.tcp)
    margin = abs(kernels.distance(handle_init, s.init_tcp) - _HANDLE_RADIUS)
    reach = kernels.within(to_obj, _HANDLE_RADIUS, margin, sigmoid)
    return Outcome(
        reward=10 * kernels.hamacher(reach, in_place),
        success=to_target <= _RADIUS,
        near_object=to_obj <= 0.05,
        grasp_success=1.0,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def window_open_v2(s: Inputs) -> Outcome:
    """Closeness of the gripper to the handle and of the handle to its goal together."""
    return _slide(s, s.obj_init, "long_tail")


def window_close_v2(s: Inputs) -> Outcome:
    """As `window_open_v2`, measured from the handle's start and with a steeper reach."""
    return _slide(s, s["handle_init"], "gaussian")


def window_v1(s: Inputs) -> Outcome:
    """Reach the handle, then slide it in x; unlike elsewhere the progress may be negative."""
    obj = s.observation[..., 4:7]
    remaining = abs(obj[..., 0] - s.target[..., 0])
    reach = kernels.distance(obj, s.tcp)
    reward = -reach + np.where(reach < 0.05, kernels.progress(remaining, s["max_pull"]), 0.0)
    return Outcome(reward, remaining <= _RADIUS, 1.0, 1.0, 0.0, 0.0, remaining)


_CONSTANTS = {"handle_init": "window_handle_pos_init", "max_pull": "maxPullDist"}

SPECS = (
    TaskSpec(
        name="window-open-v3",
        objects=_handle,
        reward_v2=window_open_v2,
        reward_v1=window_v1,
        probes={"handle": "site.handleOpenStart.xpos"},
        constants=_CONSTANTS,
    ),
    TaskSpec(
        name="window-close-v3",
        objects=_handle,
        reward_v2=window_close_v2,
        reward_v1=window_v1,
        probes={"handle": "site.handleCloseStart.xpos"},
        constants=_CONSTANTS,
    ),
)
