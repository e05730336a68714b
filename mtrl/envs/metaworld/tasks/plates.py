"""Sliding the plate: plate-slide-v3 and its variants back, side and back-side."""

from __future__ import annotations

from functools import partial

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Reward, TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

_RADIUS = 0.05


def _closeness(s: State, less: float) -> tuple[float, float, float, float]:
    """Distances between gripper and plate and between plate and goal, then the closeness of each.

    The margins of closeness are reduced by ``less``.
    """
    obj = s.observation[4:7]
    to_obj, to_target = distance(s.tcp, obj), distance(obj, s.target)
    in_place = within(to_target, _RADIUS, distance(s.obj_init, s.target) - less)
    return to_obj, to_target, within(to_obj, _RADIUS, distance(s.init_tcp, s.obj_init) - less), in_place


def _outcome(reward: float, to_obj: float, to_target: float, grasped: float, in_place: float) -> Outcome:
    reward = 10.0 if to_target < _RADIUS else reward
    return Outcome(reward, to_target <= 0.07, to_obj <= 0.03, 0.0, grasped, in_place, to_target)


def slide_v2(s: State) -> Outcome:
    """Rewards a gripper near the plate, together with a plate near the goal; 10 at the goal."""
    to_obj, to_target, grasped, in_place = _closeness(s, 0.0)
    return _outcome(8 * kernels.hamacher(grasped, in_place), to_obj, to_target, grasped, in_place)


def drag_v2(s: State) -> Outcome:
    """Rewards reaching until the fingers are down at the plate, then bringing it to the goal; 10 at the goal."""
    to_obj, to_target, grasped, in_place = _closeness(s, _RADIUS)
    down = s.tcp[2] <= 0.03 and to_obj < 0.07
    return _outcome(2.0 + 7.0 * in_place if down else 1.5 * grasped, to_obj, to_target, grasped, in_place)


def _spec(name: str, reward_v2: Reward) -> TaskSpec:
    reward_v1 = partial(kernels.move_v1, kernels.distance_xy, 0.07)
    probes = {"obj": "geom.puck.xpos", "obj_matrix": "geom.puck.xmat"}
    return TaskSpec(name, posed_by_matrix, reward_v2, reward_v1, probes, {"longest": "maxDist"})


SPECS = (
    _spec("plate-slide-v3", slide_v2),
    _spec("plate-slide-back-v3", drag_v2),
    _spec("plate-slide-side-v3", drag_v2),
    _spec("plate-slide-back-side-v3", drag_v2),
)
