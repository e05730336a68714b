"""The peg in the side of a box: peg-insert-side-v3, peg-unplug-side-v3."""

from __future__ import annotations

from typing import Any

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, scaled_distance, within
from mtrl.envs.metaworld.tasks.push import doubled
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_SCALE = (1.0, 2.0, 2.0)


def _between(x: float, one: float, other: float) -> bool:
    return min(one, other) <= x <= max(one, other)


def _part(x: float, zero: float, one: float) -> float:
    return (x - zero) / (one - zero)


def _outside_prism(point: Vector, zero: Vector, one: Vector) -> tuple[bool, float]:
    """Whether the point is in the box with the corners ``zero`` and ``one``.

    Also returns the share of the box's volume between ``zero`` and the point, or 1 outside.
    """
    inside = _between(point[0], zero[0], one[0]) and _between(point[1], zero[1], one[1])
    if not (inside and _between(point[2], zero[2], one[2])):
        return False, 1.0
    x, y, z = _part(point[0], zero[0], one[0]), _part(point[1], zero[1], one[1]), _part(point[2], zero[2], one[2])
    return True, x * y * z


def peg_insert_side_v2(s: State) -> Outcome:
    """Rewards a grasped peg whose head is near the hole, less inside the box's walls; 10 in the hole."""
    peg, opened = s.observation[4:7], s.observation[3]
    to_peg, to_target = distance(peg, s.tcp), scaled_distance(s.head, s.target, _SCALE)
    in_place = within(to_target, 0.07, scaled_distance(s.head_init, s.target, _SCALE))
    in_first, first = _outside_prism(s.head, s.zero_corner, s.one_corner)
    in_second, second = _outside_prism(s.head, s.other_zero_corner, s.other_one_corner)
    in_place = kernels.hamacher(in_place, kernels.hamacher(second, first))

    grasped, single = kernels.gripper_caging(s, peg, 0.0075, 0.03, 0.005)
    raised = opened > 0 and peg[2] - 0.01 > s.obj_init[2]
    lifted = to_peg < 0.08 and raised
    grasped = 1.0 if lifted else grasped
    # In Meta-World only the caging reward is float32. Inside a wall, it is combined with an np.float64.
    single = single and not lifted and not in_first and not in_second
    reward = kernels.carry(single, grasped, in_place, lifted, 1.0 + 5.0 * in_place)
    success, holding = to_target <= 0.07, to_peg < 0.02 and raised
    return Outcome(10.0 if success else reward, success, to_peg <= 0.03, holding, grasped, in_place, to_target)


def peg_insert_side_v1(s: State) -> Outcome:
    """Reach the peg, lift it to the target height, then carry first its head and then the whole peg to the hole."""
    peg = s.observation[4:7]
    reach, reach_reward = kernels.approach(s, peg, s.init_tcp[2], 1.0)
    placing, placing_head = distance(peg, s.target), distance(s.head, s.target)
    held, lift_reward = kernels.lift(peg[2], s.peg_height, s.target_height, placing, reach)
    remaining = placing if placing_head <= 0.05 else placing_head
    reward = reach_reward + lift_reward + kernels.place(held, reach, remaining, s.max_placing)
    return kernels.outcome_v1(reward, placing, 0.07)


def _pulled(grasped: Any, placed: Any) -> Any:
    return 1.0 + 2.0 * grasped + placed


def peg_unplug_side_v2(s: State) -> Outcome:
    """Rewards the grasp of the plug and, once it moves with the fingers, its closeness to the goal; 10 at the goal."""
    plug, opened, to_target, to_plug, in_place = kernels.carried(s)
    grasped, single = kernels.gripper_caging(s, plug, 0.025, 0.05, 0.005, effort=0.8)
    pulled = opened > 0.5 and plug[0] - s.obj_init[0] > 0.015
    if to_target <= 0.05:
        reward = 10.0
    elif pulled and to_plug < 0.035:
        reward = kernels.mixed(single, _pulled, grasped, 5.0 * in_place)
    else:
        reward = kernels.mixed(single, doubled, grasped)
    return Outcome(reward, to_target <= 0.07, to_plug <= 0.03, pulled, grasped, in_place, to_target)


def peg_unplug_side_v1(s: State) -> Outcome:
    """Reach the plug, then move it in the plane."""
    plug = s.observation[4:7]
    reach, reach_reward = kernels.approach(s, plug, s.hand_init[2], 2.0)
    placing = kernels.distance_xy(plug, s.target)
    place = max(kernels.progress(placing, s.max_placing), 0.0) if reach < 0.05 else 0.0
    return kernels.outcome_v1(reach_reward + place, placing, 0.07)


_PEG = {
    "obj": "site.pegGrasp.xpos",
    "obj_matrix": "site.pegGrasp.xmat",
    "head": "site.pegHead.xpos",
    "zero_corner": "site.bottom_right_corner_collision_box_1.xpos",
    "one_corner": "site.top_left_corner_collision_box_1.xpos",
    "other_zero_corner": "site.bottom_right_corner_collision_box_2.xpos",
    "other_one_corner": "site.top_left_corner_collision_box_2.xpos",
}
_PLUG = {"obj": "site.pegEnd.xpos", "obj_quaternion": "body.plug1.xquat"}
_LONGEST = {"max_placing": "maxPlacingDist"}
_HEIGHTS = {"head_init": "peg_head_pos_init", "peg_height": "objHeight", "target_height": "heightTarget"}

SPECS = (
    TaskSpec("peg-insert-side-v3", posed_by_matrix, peg_insert_side_v2, peg_insert_side_v1, _PEG, _LONGEST | _HEIGHTS),
    TaskSpec("peg-unplug-side-v3", posed, peg_unplug_side_v2, peg_unplug_side_v1, _PLUG, _LONGEST),
)
