"""Pressing and pulling a handle, in front and sideways: handle-press(-side)-v3 and handle-pull(-side)-v3."""

from __future__ import annotations

from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, placed
from mtrl.envs.metaworld.tasks.kernels import along, distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

_PRESS_RADIUS = 0.02
_PULL_RADIUS = 0.05


def press_v2(s: State) -> Outcome:
    """Rewards fingers near the handle together with a handle near the goal's height; 10 at the goal."""
    obj, start = s.observation[4:7], s.handle_init
    to_target, to_obj = abs(obj[2] - s.target[2]), distance(obj, s.tcp)
    in_place = within(to_target, _PRESS_RADIUS, abs(abs(start[2] - s.target[2]) - _PRESS_RADIUS))
    reach = within(to_obj, 0.02, abs(distance(start, s.init_tcp) - 0.02))
    success = to_target <= _PRESS_RADIUS
    reward = 10.0 if success else kernels.hamacher(reach, in_place) * 10
    return Outcome(reward, success, to_obj <= 0.05, 1.0, reach, in_place, to_target)


def _pull(s: State, to_target: float, margin: float, raised: bool, pad: float, radius: float, success: bool) -> Outcome:
    """Rewards a grasped handle near the goal, with a bonus while it is held and ``raised``; 10 at the goal."""
    obj, opened = s.observation[4:7], s.observation[3] > 0
    in_place = within(to_target, _PULL_RADIUS, margin)
    grasped, single = kernels.gripper_caging(s, obj, radius, pad, 0.01)
    to_obj = distance(obj, s.tcp)
    held = to_obj < 0.035 and opened and raised
    reward = kernels.carry(single, grasped, in_place, held, 1.0 + 5.0 * in_place)
    reward = 10.0 if to_target < _PULL_RADIUS else reward
    lifted = opened and obj[2] - 0.03 > s.obj_init[2]
    return Outcome(reward, success, to_obj <= 0.05, lifted, grasped, in_place, to_target)


def pull_v2(s: State) -> Outcome:
    """`_pull`, where the distance to the goal is the difference in height."""
    obj = s.observation[4:7]
    to_target, margin = abs(s.target[2] - obj[2]), abs(s.target[2] - s.obj_init[2])
    # Meta-World compares the handle's y with its initial z, so in practice this is always true.
    raised = obj[1] - 0.01 > s.obj_init[2]
    return _pull(s, to_target, margin, raised, 0.05, 0.022, to_target <= _PULL_RADIUS)


def pull_side_v2(s: State) -> Outcome:
    """`_pull`, where the distance to the goal is in all three coordinates."""
    obj = s.observation[4:7]
    to_target, margin = distance(obj, s.target), distance(s.obj_init, s.target)
    return _pull(s, to_target, margin, obj[2] - 0.01 > s.obj_init[2], 0.06, 0.032, to_target <= 0.08)


_LONGEST = {"longest": "maxDist"}
_PRESS = {**_LONGEST, "handle_init": "_handle_init_pos"}
_CENTRE = {"obj": "site.handleCenter.xpos"}
_START = {"obj": "site.handleStart.xpos"}
_PRESS_V1 = partial(kernels.move_v1, partial(along, 2), _PRESS_RADIUS, grasp_success=1.0, left=True)
_PULL_V1 = partial(kernels.move_v1, partial(along, 2), _PULL_RADIUS, left=True)
_PULL_SIDE_V1 = partial(kernels.move_v1, partial(along, 2), 0.08, left=True)

SPECS = (
    TaskSpec("handle-press-v3", placed, press_v2, _PRESS_V1, _START, _PRESS),
    TaskSpec("handle-press-side-v3", placed, press_v2, _PRESS_V1, _START, _PRESS),
    TaskSpec("handle-pull-v3", placed, pull_v2, _PULL_V1, {"obj": "site.handleRight.xpos"}, _LONGEST),
    TaskSpec("handle-pull-side-v3", placed, pull_side_v2, _PULL_SIDE_V1, _CENTRE, _LONGEST),
)
