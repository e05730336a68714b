"""Reaching: reach-v3 and reach-wall-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec
from mtrl.envs.metaworld.tasks.pick_place import puck
from mtrl.envs.metaworld.tasks.state import Outcome, State


def _closeness(s: State) -> tuple[float, float]:
    """The distance of the fingers to the goal, and how near that is."""
    to_target = kernels.distance(s.tcp, s.target)
    return to_target, kernels.within(to_target, 0.05, kernels.distance(s.hand_init, s.target))


def _progress(s: State) -> tuple[float, float]:
    """The distance, and progress towards the goal plus a bonus near it, never negative."""
    to_target = kernels.distance(s.tcp, s.target)
    return to_target, max(kernels.progress(to_target, s.max_reach), 0.0)


def _outcome(reward: float, to_target: float, in_place: float) -> Outcome:
    return Outcome(reward, to_target <= 0.05, to_target, 1.0, to_target, in_place, to_target)


def _wall_outcome(reward: float, to_target: float, in_place: float) -> Outcome:
    """As `_outcome`, with no info on an object."""
    return Outcome(reward, to_target <= 0.05, 0.0, 0.0, 0.0, in_place, to_target)


def reach_v2(s: State) -> Outcome:
    """Ten times the closeness of the fingers to the goal."""
    to_target, in_place = _closeness(s)
    return _outcome(10 * in_place, to_target, in_place)


def reach_v1(s: State) -> Outcome:
    """See `_progress`."""
    to_target, reward = _progress(s)
    return _outcome(reward, to_target, 0.0)


def reach_wall_v2(s: State) -> Outcome:
    """The reward of `reach_v2`."""
    to_target, in_place = _closeness(s)
    return _wall_outcome(10 * in_place, to_target, in_place)


def reach_wall_v1(s: State) -> Outcome:
    """The reward of `reach_v1`."""
    to_target, reward = _progress(s)
    return _wall_outcome(reward, to_target, 0.0)


_PROBES = {"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat"}
_LONGEST = {"max_reach": "maxReachDist"}

SPECS = (
    TaskSpec("reach-v3", puck, reach_v2, reach_v1, _PROBES, _LONGEST),
    TaskSpec("reach-wall-v3", puck, reach_wall_v2, reach_wall_v1, _PROBES, _LONGEST),
)
