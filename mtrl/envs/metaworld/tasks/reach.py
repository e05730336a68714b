"""Reaching: reach-v3 and reach-wall-v3."""

from __future__ import annotations

from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.state import Outcome, State


def _outcome(reward: float, to_target: float, in_place: float, wall: bool) -> Outcome:
    """Add ``near_object``, ``grasp_success`` and ``grasp_reward`` as Meta-World reports them: zeros with a wall;
    otherwise the distance to the goal, 1, and the distance again."""
    near, grasped = (0.0, 0.0) if wall else (to_target, 1.0)
    return Outcome(reward, to_target <= 0.05, near, grasped, near, in_place, to_target)


def reach_v2(s: State, wall: bool = False) -> Outcome:
    """Rewards fingers near the goal by ten times their closeness."""
    to_target = kernels.distance(s.tcp, s.target)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.hand_init, s.target))
    return _outcome(10 * in_place, to_target, in_place, wall)


def reach_v1(s: State, wall: bool = False) -> Outcome:
    """Progress towards the goal plus a bonus near it, never negative."""
    to_target = kernels.distance(s.tcp, s.target)
    return _outcome(max(kernels.progress(to_target, s.longest), 0.0), to_target, 0.0, wall)


_PROBES = {"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat"}
_LONGEST = {"longest": "maxReachDist"}
_WALL_V2, _WALL_V1 = partial(reach_v2, wall=True), partial(reach_v1, wall=True)

SPECS = (
    TaskSpec("reach-v3", posed_by_matrix, reach_v2, reach_v1, _PROBES, _LONGEST),
    TaskSpec("reach-wall-v3", posed_by_matrix, _WALL_V2, _WALL_V1, _PROBES, _LONGEST),
)
