"""Placing an object elsewhere: bin-picking-v3, shelf-place-v3, basketball-v3 and pick-out-of-hole-v3."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, distance_xy, hamacher, scaled_distance, within
from mtrl.envs.metaworld.tasks.pick_place import PLACING, PUCK, pick_place_v1
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_SHELF_DEPTH = 3 * 0.05
_HOOP_SCALE = (1.0, 1.0, 2.0)


def _funnel(radius: float, slope: float, height: float) -> float:
    """The height that the hand should keep, given its planar distance from the object's start or the goal."""
    outside = radius - 0.03
    return slope * math.log(max(outside, 1e-300)) + height if outside > 0 else 0.0


def bin_picking_v2(s: State) -> Outcome:
    """Rewards a grasped object near the goal, with a bonus for lifting it; 10 at the goal.

    The bonus is larger while the hand is above the bins' edges.
    """
    hand, opened, obj = s.observation[:3], s.observation[3], s.observation[4:7]
    to_target = distance(obj, s.target)
    s.first_distance = to_target if math.isnan(s.first_distance) else s.first_distance
    in_place = within(to_target, 0.05, s.first_distance)
    floor = min(_funnel(distance_xy(hand, s.obj_init), 0.02, 0.2), _funnel(distance_xy(hand, s.target), 0.02, 0.2))
    above_floor = within(floor - hand[2], 0.01, 0.05)
    grasped, single = kernels.gripper_caging(s, obj, 0.015, 0.05, 0.01, effort=0.7)
    near = distance(obj, hand) < 0.04
    held = near and obj[2] - 0.02 > s.obj_init[2] and not opened < 0.43
    reward = kernels.carry(single, grasped, in_place, held, 1.0 + 5.0 * hamacher(above_floor, in_place))
    reward = 10.0 if to_target < 0.05 else reward
    return Outcome(reward, to_target <= 0.05, near, held, grasped, in_place, to_target)


def bin_picking_v1(s: State) -> Outcome:
    """Rewards reaching, lifting and carrying the object, and opening the gripper over the goal.

    Once the object is placed, only its progress and the opening of the gripper count.
    """
    obj = s.observation[4:7]
    placing = distance_xy(obj, s.target)
    reach, reach_reward = kernels.approach(s, obj, s.init_tcp[2], 1.0, near_xy=0.06)
    held, lift_reward = kernels.lift(obj[2], s.obj_height, s.target_height, placing, reach)
    over_goal = abs(obj[0] - s.target[0]) < 0.05 and abs(obj[1] - s.target[1]) < 0.05
    place = max(kernels.progress(placing, s.max_placing), 0.0)
    opening = float(-200.0 * s.command) + place
    carried = opening if over_goal else place
    reward = reach_reward + lift_reward + (carried if held and reach < 0.1 else 0.0)
    placed = over_goal and obj[2] < s.obj_height + 0.05
    return Outcome(opening if placed else reward, placing <= 0.05, 0.0, 0.0, 0.0, 0.0, placing)


def _under_shelf(s: State, obj: Vector, in_place: float) -> tuple[bool, float]:
    """Whether the puck is lower than the shelf and in front of the goal; and the closeness `in_place`.

    It is reduced for such a puck, and 0 for one lower than the shelf and behind the goal.
    """
    x, y, z = obj
    goal_x, goal_y = s.target[0], s.target[1]
    front_y = goal_y - _SHELF_DEPTH
    below = 0.0 < z < 0.24 and goal_x - 0.15 < x < goal_x + 0.15
    if below and front_y < y < goal_y:
        loss = hamacher((y - front_y) / _SHELF_DEPTH, (0.24 - z) / 0.24)
        return True, kernels.clip(in_place - loss, 0.0, 1.0)
    return False, 0.0 if below and y > goal_y else in_place


def _plus(reward: Any, bonus: Any) -> Any:
    return reward + bonus


def shelf_place_v2(s: State) -> Outcome:
    """Rewards a grasped puck near the goal, with a bonus for lifting that shrinks under the shelf; 10 at the goal."""
    obj, opened, to_target, to_obj, closeness = kernels.carried(s)
    grasped, single = kernels.gripper_caging(s, obj, 0.02, 0.05, 0.01, high_density=False)
    reward = kernels.mixed(single, hamacher, grasped, closeness)
    front, in_place = _under_shelf(s, obj, closeness)
    if to_obj < 0.025 and opened > 0 and obj[2] - 0.01 > s.obj_init[2]:
        # Where Meta-World reduces the closeness, it is an np.float64, so this sum is in double precision there.
        reward = kernels.mixed(single and not front, _plus, reward, 1.0 + 5.0 * in_place)
    return kernels.graded(s, reward, to_target, to_obj, 0.07, grasped, in_place)


def basketball_v2(s: State) -> Outcome:
    """Rewards a grasped ball near a point over the hoop, with a bonus for lifting it; 10 at that point."""
    obj, opened = s.observation[4:7], s.observation[3]
    hoop = (s.target[0], s.target[1], 0.3)
    to_target, to_obj = scaled_distance(obj, hoop, _HOOP_SCALE), distance(obj, s.tcp)
    in_place = within(to_target, 0.08, scaled_distance(s.obj_init, hoop, _HOOP_SCALE))
    grasped, single = kernels.gripper_caging(s, obj, 0.025, 0.06, 0.005)
    if to_obj < 0.035 and opened > 0 and obj[2] - 0.01 > s.obj_init[2]:
        grasped = 1.0
        reward = hamacher(grasped, in_place) + (1.0 + 5.0 * in_place)
    else:
        reward = kernels.mixed(single, hamacher, grasped, in_place)
    raised = opened > 0 and obj[2] - 0.03 > s.obj_init[2]
    reward = 10.0 if to_target < 0.08 else reward
    return Outcome(reward, to_target <= 0.08, to_obj <= 0.05, raised, grasped, in_place, to_target)


def pick_out_of_hole_v2(s: State) -> Outcome:
    """Rewards a grasped object near the goal, with a bonus for lifting it; 10 at the goal.

    The bonus is larger while the hand is above the hole's edge.
    """
    obj, opened = s.observation[4:7], s.observation[3]
    to_target, to_obj = distance(obj, s.target), distance(obj, s.tcp)
    floor = _funnel(distance_xy(s.tcp, s.obj_init), 0.015, 0.15)
    above_floor = within(floor - s.tcp[2], 0.01, 0.02)
    grasped, single = kernels.gripper_caging(s, obj, 0.015, 0.02, 0.03, effort=0.1)
    in_place = within(to_target, 0.02, distance(s.obj_init, s.target))
    held = to_obj < 0.04 and obj[2] - 0.02 > s.obj_init[2] and not opened < 0.33
    reward = kernels.carry(single, grasped, in_place, held, 1.0 + 5.0 * hamacher(in_place, above_floor))
    reward = 10.0 if to_target < 0.05 else reward
    return Outcome(reward, to_target <= 0.07, to_obj <= 0.03, held, grasped, in_place, to_target)


_OBJECT = {"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat"}
_BIN = {**_OBJECT, "target": "body.bin_goal.xpos"}
_BALL = {"obj": "body.bsktball.xpos", "obj_quaternion": "body.bsktball.xquat", "target": "site.goal.xpos"}

SPECS = (
    TaskSpec("bin-picking-v3", posed, bin_picking_v2, bin_picking_v1, _BIN, PLACING, ("first_distance",)),
    TaskSpec("shelf-place-v3", posed_by_matrix, shelf_place_v2, pick_place_v1, PUCK, PLACING),
    TaskSpec("basketball-v3", posed, basketball_v2, partial(pick_place_v1, goal_radius=0.08), _BALL, PLACING),
    TaskSpec("pick-out-of-hole-v3", posed, pick_out_of_hole_v2, pick_place_v1, _OBJECT, PLACING),
)
