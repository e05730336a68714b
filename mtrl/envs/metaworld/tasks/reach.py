"""Reaching: reach-v3 and reach-wall-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec
from mtrl.envs.metaworld.tasks.pick_place import puck
from mtrl.envs.metaworld.tasks.state import Outcome, State


def _to_target(s: State) -> float:
    return kernels.distance(s.tcp, s.target)


def _closeness(s: State) -> float:
    return kernels.within(_to_target(s), 0.05, kernels.distance(s.hand_init, s.target))


def _progress(s: State) -> float:
    return max(kernels.progress(_to_target(s), s.max_reach), 0.0)


def _outcome(reward: float, to_target: float, in_place: float) -> Outcome:
    return Outcome(reward, to_target <= 0.05, to_target, 1.0, to_target, in_place, to_target)


def _wall_outcome(reward: float, to_target: float, in_place: float) -> Outcome:
    """As `_outcome`, with no info on an object."""
    return Outcome(reward, to_target <= 0.05, 0.0, 0.0, 0.0, in_place, to_target)


def reach_v2(s: State) -> Outcome:
    """Ten times the closeness of the fingers to the goal."""
    return _outcome(10 * _closeness(s), _to_target(s), _closeness(s))


def reach_v1(s: State) -> Outcome:
    """Progress towards the goal plus a bonus near it, never negative."""
    return _outcome(_progress(s), _to_target(s), 0.0)


def reach_wall_v2(s: State) -> Outcome:
    """The reward of `reach_v2`."""
    return _wall_outcome(10 * _closeness(s), _to_target(s), _closeness(s))


def reach_wall_v1(s: State) -> Outcome:
    """The reward of `reach_v1`."""
    return _wall_outcome(_progress(s), _to_target(s), 0.0)


_PROBES = {"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat"}
_LONGEST = {"max_reach": "maxReachDist"}

SPECS = (
    TaskSpec("reach-v3", puck, reach_v2, reach_v1, _PROBES, _LONGEST),
    TaskSpec("reach-wall-v3", puck, reach_wall_v2, reach_wall_v1, _PROBES, _LONGEST),
)
