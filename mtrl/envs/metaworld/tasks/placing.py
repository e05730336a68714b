"""Placing an object elsewhere: bin-picking-v3, shelf-place-v3, basketball-v3 and pick-out-of-hole-v3."""

from __future__ import annotations

from functools import partial

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec, graded
from mtrl.envs.metaworld.tasks.pick_place import PLACING, PUCK, pick_place_v1, puck, reach_from_above

_SHELF_DEPTH = 3 * 0.05


def _object(s: Inputs) -> tuple[Array, ...]:
    return s["obj"], s["obj_quaternion"]


def _funnel(radius: Array, slope: float, height: float) -> Array:
    """Height that the hand should keep at a distance in x and y from the middle of a hole or a bin."""
    outside = radius - 0.03
    wall = slope * np.log(kernels.at_least(outside, 1e-300)) + height
    return np.where(outside > 0, wall, 0.0)


def _first_distance(s: Inputs, to_target: Array) -> Array:
    first = s["first_distance"]
    first[...] = np.where(np.isnan(first), to_target, first)
    return first


def bin_picking_v2(s: Inputs) -> Outcome:
    """Grasp and closeness together, a bonus for lifting clear of the bins' edges, 10 at the goal."""
    hand, opened, obj = s.observation[..., :3], s.observation[..., 3], s.observation[..., 4:7]
    to_target = kernels.distance(obj, s.target)
    in_place = kernels.within(to_target, 0.05, _first_distance(s, to_target))
    floors = [_funnel(kernels.distance(hand[..., :2], middle[..., :2]), 0.02, 0.2) for middle in (s.obj_init, s.target)]
    above_floor = kernels.within(np.minimum(*floors) - hand[..., 2], 0.01, 0.05)
    grasped, single = kernels.gripper_caging(
        s, obj, obj_radius=0.015, pad_success_thresh=0.05, xz_thresh=0.01, desired_gripper_effort=0.7, high_density=True
    )
    near = kernels.distance(obj, hand) < 0.04
    held = near & (obj[..., 2] - 0.02 > s.obj_init[..., 2]) & ~(opened < 0.43)

    def tail(grasped: Array, in_place: Array, bonus: Array) -> Array:
        reward = kernels.hamacher(grasped, in_place)
        return np.where(held, reward + bonus, reward)

    bonus = 1.0 + 5.0 * kernels.hamacher(above_floor, in_place)
    reward = kernels.mixed(single, tail, grasped, in_place, bonus)
    return Outcome(
        np.where(to_target < 0.05, 10.0, reward), to_target <= 0.05, near, held, grasped, in_place, to_target
    )


def bin_picking_v1(s: Inputs) -> Outcome:
    """Reach, lift, carry, and open the gripper over the goal; only that and the progress count once placed."""
    obj = s.observation[..., 4:7]
    reach = kernels.distance(obj, s.tcp)
    placing = kernels.distance(obj[..., :2], s.target[..., :2])
    offset = abs(obj[..., :2] - s.target[..., :2])
    over_goal = (offset[..., 0] < 0.05) & (offset[..., 1] < 0.05)
    placed = over_goal & (obj[..., 2] < s["obj_height"] + 0.05)

    held, lift_reward = kernels.lift(obj[..., 2], s["obj_height"], s["target_height"], placing, reach)
    place = kernels.at_least(kernels.progress(placing, s["max_placing"]), 0.0)
    opening = -200.0 * s.action[..., 3] + place
    place_reward = np.where(held & (reach < 0.1), np.where(over_goal, opening, place), 0.0)
    reward = reach_from_above(s, obj, reach, radius=0.06, slope=1.0) + lift_reward + place_reward
    return Outcome(np.where(placed, opening, reward), placing <= 0.05, 0.0, 0.0, 0.0, 0.0, placing)


def _on_shelf(s: Inputs, obj: Array, in_place: Array) -> tuple[Array, Array]:
    """Closeness, less where the puck is under the shelf: in front of the goal's y, or behind it (0)."""
    x, y, z = obj[..., 0], obj[..., 1], obj[..., 2]
    goal_x, goal_y = s.target[..., 0], s.target[..., 1]
    front_y = goal_y - _SHELF_DEPTH
    below = (z > 0.0) & (z < 0.24) & (x > goal_x - 0.15) & (x < goal_x + 0.15)
    front = below & (y > front_y) & (y < goal_y)
    loss = kernels.hamacher((y - front_y) / _SHELF_DEPTH, (0.24 - z) / 0.24)
    reduced = kernels.at_most(kernels.at_least(in_place - loss, 0.0), 1.0)
    return front, np.where(front, reduced, np.where(below & (y > goal_y), 0.0, in_place))


def shelf_place_v2(s: Inputs) -> Outcome:
    """Grasp and closeness together, a bonus for lifting that shrinks under the shelf, 10 at the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    closeness = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = kernels.gripper_caging(s, obj, obj_radius=0.02, pad_success_thresh=0.05, xz_thresh=0.01)
    reward = kernels.mixed(single, kernels.hamacher, grasped, closeness)
    front, in_place = _on_shelf(s, obj, closeness)
    # The reduced closeness is an np.float64 in the package, which ends the single precision.
    raised = kernels.mixed(single & ~front, lambda reward, bonus: reward + bonus, reward, 1.0 + 5.0 * in_place)
    lifted = (to_obj < 0.025) & (opened > 0) & (obj[..., 2] - 0.01 > s.obj_init[..., 2])
    return graded(s, obj, np.where(lifted, raised, reward), to_target, 0.07, grasped, in_place)


def basketball_v2(s: Inputs) -> Outcome:
    """Grasp and closeness to a point over the hoop together, a bonus for lifting, 10 at that point."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    hoop = np.where(kernels.constant((0.0, 0.0, 1.0)) > 0, 0.3, s.target)
    scale = kernels.constant((1.0, 1.0, 2.0))
    to_target = kernels.norm((obj - hoop) * scale)
    in_place = kernels.within(to_target, 0.08, kernels.norm((s.obj_init - hoop) * scale))
    to_obj = kernels.distance(obj, s.tcp)
    grasped, single = kernels.gripper_caging(
        s, obj, obj_radius=0.025, pad_success_thresh=0.06, xz_thresh=0.005, high_density=True
    )
    held = (to_obj < 0.035) & (opened > 0) & (obj[..., 2] - 0.01 > s.obj_init[..., 2])
    grasped = np.where(held, 1.0, grasped)
    reward = kernels.mixed(single & ~held, kernels.hamacher, grasped, in_place)
    reward = np.where(held, reward + (1.0 + 5.0 * in_place), reward)
    return Outcome(
        reward=np.where(to_target < 0.08, 10.0, reward),
        success=to_target <= 0.08,
        near_object=to_obj <= 0.05,
        grasp_success=(opened > 0) & (obj[..., 2] - 0.03 > s.obj_init[..., 2]),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def pick_out_of_hole_v2(s: Inputs) -> Outcome:
    """Grasp and closeness together, a bonus for lifting with the fingers clear of the hole's edge, 10 at the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    floor = _funnel(kernels.distance(s.tcp[..., :2], s.obj_init[..., :2]), 0.015, 0.15)
    above_floor = kernels.within(floor - s.tcp[..., 2], 0.01, 0.02)
    grasped, single = kernels.gripper_caging(
        s, obj, obj_radius=0.015, pad_success_thresh=0.02, xz_thresh=0.03, desired_gripper_effort=0.1, high_density=True
    )
    in_place = kernels.within(to_target, 0.02, kernels.distance(s.obj_init, s.target))
    held = (to_obj < 0.04) & (obj[..., 2] - 0.02 > s.obj_init[..., 2]) & ~(opened < 0.33)

    def tail(grasped: Array, in_place: Array, bonus: Array) -> Array:
        reward = kernels.hamacher(grasped, in_place)
        return np.where(held, reward + bonus, reward)

    bonus = 1.0 + 5.0 * kernels.hamacher(in_place, above_floor)
    reward = kernels.mixed(single, tail, grasped, in_place, bonus)
    reward = np.where(to_target < 0.05, 10.0, reward)
    return Outcome(reward, to_target <= 0.07, to_obj <= 0.03, held, grasped, in_place, to_target)


def pick_out_of_hole_v1(s: Inputs) -> Outcome:
    """As `pick_place_v1`, heights being measured from 2 cm below the object at rest."""
    return pick_place_v1(s, ground=s["obj_height"] - 0.02)


SPECS = (
    TaskSpec(
        name="bin-picking-v3",
        objects=_object,
        reward_v2=bin_picking_v2,
        reward_v1=bin_picking_v1,
        probes={"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat", "target": "body.bin_goal.xpos"},
        constants=PLACING,
        state=("first_distance",),
    ),
    TaskSpec("shelf-place-v3", puck, shelf_place_v2, pick_place_v1, probes=PUCK, constants=PLACING),
    TaskSpec(
        name="basketball-v3",
        objects=_object,
        reward_v2=basketball_v2,
        reward_v1=partial(pick_place_v1, goal_radius=0.08),
        probes={"obj": "body.bsktball.xpos", "obj_quaternion": "body.bsktball.xquat", "target": "site.goal.xpos"},
        constants=PLACING,
    ),
    TaskSpec(
        name="pick-out-of-hole-v3",
        objects=_object,
        reward_v2=pick_out_of_hole_v2,
        reward_v1=pick_out_of_hole_v1,
        probes={"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat"},
        constants=PLACING,
    ),
)
