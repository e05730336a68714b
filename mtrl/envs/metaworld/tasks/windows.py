"""The sliding window: window-open-v3 and window-close-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Reward, TaskSpec, placed
from mtrl.envs.metaworld.tasks.kernels import distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_RADIUS = 0.05
_HANDLE_RADIUS = 0.02


def _slide(s: State, start: Vector, sigmoid: str) -> Outcome:
    """Rewards a gripper near the handle, together with the handle near its goal.

    start: where the handle's way begins.
    """
    obj = s.observation[4:7]
    to_target, to_obj = abs(obj[0] - s.target[0]), distance(obj, s.tcp)
    in_place = within(to_target, _RADIUS, abs(abs(start[0] - s.target[0]) - _RADIUS))
    margin = abs(distance(s.window_handle_init, s.init_tcp) - _HANDLE_RADIUS)
    reach = within(to_obj, _HANDLE_RADIUS, margin, sigmoid)
    reward = 10 * kernels.hamacher(reach, in_place)
    return Outcome(reward, to_target <= _RADIUS, to_obj <= 0.05, 1.0, reach, in_place, to_target)


def window_open_v2(s: State) -> Outcome:
    """See `_slide`."""
    return _slide(s, s.obj_init, "long_tail")


def window_close_v2(s: State) -> Outcome:
    """See `_slide`: the way begins at the handle's start, and the reward for reaching falls as a Gaussian."""
    return _slide(s, s.window_handle_init, "gaussian")


def window_v1(s: State) -> Outcome:
    """Reach the handle, then slide it in x. Unlike in other tasks, the progress may be negative."""
    obj = s.observation[4:7]
    remaining, reach = abs(obj[0] - s.target[0]), distance(obj, s.tcp)
    reward = -reach + (kernels.progress(remaining, s.longest) if reach < 0.05 else 0.0)
    return kernels.outcome_v1(reward, remaining, _RADIUS, grasp_success=1.0)


def _window(name: str, reward_v2: Reward, handle: str) -> TaskSpec:
    constants = {"window_handle_init": "window_handle_pos_init", "longest": "maxPullDist"}
    return TaskSpec(name, placed, reward_v2, window_v1, {"obj": f"site.{handle}.xpos"}, constants)


SPECS = (
    _window("window-open-v3", window_open_v2, "handleOpenStart"),
    _window("window-close-v3", window_close_v2, "handleCloseStart"),
)
