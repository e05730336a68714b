"""Closing a box and reaching into one: box-close-v3, hand-insert-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed
from mtrl.envs.metaworld.tasks.kernels import distance, hamacher, within
from mtrl.envs.metaworld.tasks.state import Outcome, State


def box_close_v2(s: State) -> Outcome:
    """Rewards a closed gripper at the lid's knob and a lid near the box, scaled by how level the lid is."""
    hand, lid = s.observation[:3], s.observation[4:7]
    knob = kernels.plus(lid, (0.0, 0.0, 0.02))
    floor = kernels.above_floor(hand, knob, 0.02)
    ready = hamacher(floor, within(distance(hand, knob), 0.02, 0.5))

    error = kernels.scaled_distance(s.target, knob, (1.0, 1.0, 3.0))
    lifted = 0.2 * float(knob[2] > 0.04) + 0.8 * within(error, 0.05, 0.25)

    grab = kernels.grab_effort(s)
    tilt = kernels.quaternion_distance(s.observation[7:11], (0.707, 0.0, 0.0, 0.707))
    level = max(1.0 - tilt / 0.2, 0.0)
    reward = 2.0 * hamacher(grab, ready) + 8.0 * lifted
    success = distance(lid, s.target) < 0.08
    return Outcome((10.0 if success else reward) * level, success, ready, grab >= 0.5, grab, lifted, 0.0)


def box_close_v1(s: State) -> Outcome:
    """Reach the lid, lift it to the target height, then carry it."""
    lid = s.observation[4:7]
    reach, reach_reward = kernels.approach(s, lid, s.init_tcp[2], 2.0)
    placing = distance(lid, s.target)
    held, lift_reward = kernels.lift(lid[2], s.knob_height, s.target_height, placing, reach)
    reward = reach_reward + lift_reward + kernels.place(held, reach, placing, s.max_placing)
    return Outcome(reward, placing < 0.08, 0.0, 0.0, 0.0, 0.0, 0.0)


def hand_insert_v2(s: State) -> Outcome:
    """Rewards a grasped block near the bottom of the hole, with a bonus once it is in hand; 10 at the goal."""
    block, opened, to_target, to_block, in_place = kernels.carried(s)
    grasped, single = kernels.gripper_caging(s, block, 0.015, 0.05, 0.005)
    in_hand = to_block < 0.02 and opened > 0
    reward = kernels.carry(single, grasped, in_place, in_hand, 1.0 + 7.0 * in_place)
    return kernels.graded(s, reward, to_target, to_block, 0.05, grasped, in_place)


def hand_insert_v1(s: State) -> Outcome:
    """Bring the fingers above the hole, then down.

    As in Meta-World, success compares the block's position at the start of the episode, not the current one, with the
    goal.
    """
    reach = kernels.distance_xy(s.tcp, s.target)
    reward = kernels.reach_then_move(reach, abs(s.tcp[2] - s.target[2]), s.longest)
    return kernels.outcome_v1(reward, distance(s.obj_init, s.target), 0.05)


_LID = {"obj": "body.top_link.xpos", "obj_quaternion": "body.top_link.xquat"}
_HEIGHTS = {"knob_height": "objHeight", "target_height": "heightTarget", "max_placing": "maxPlacingDist"}
_BLOCK = {"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat", "touching": "touching.objGeom"}
_LONGEST = {"longest": "maxReachDist"}

SPECS = (
    TaskSpec("box-close-v3", posed, box_close_v2, box_close_v1, _LID, _HEIGHTS),
    TaskSpec("hand-insert-v3", posed, hand_insert_v2, hand_insert_v1, _BLOCK, _LONGEST),
)
