"""Closing a box and going into one: box-close-v3, hand-insert-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec, graded


def _lid(s: Inputs) -> tuple[Array, ...]:
    return s["lid"], s["lid_quaternion"]


def _block(s: Inputs) -> tuple[Array, ...]:
    return s["block"], s["block_quaternion"]


def box_close_v2(s: Inputs) -> Outcome:
    """The closed gripper at the lid's knob and the lid's closeness to the box, scaled by how level the lid is."""
    hand, lid = s.observation[..., :3], s.observation[..., 4:7]
    knob = lid + kernels.constant((0.0, 0.0, 0.02))
    floor = kernels.above_floor(hand, knob, 0.02)
    ready = kernels.hamacher(floor, kernels.within(kernels.distance(hand, knob), 0.02, 0.5))

    error = kernels.norm((s.target - knob) * kernels.constant((1.0, 1.0, 3.0)))
    raised = kernels.indicator(knob[..., 2] > 0.04)
    lifted = 0.2 * raised + 0.8 * kernels.within(error, 0.05, 0.25)

    grab = kernels.grab_effort(s.action)
    tilt = kernels.distance(s.observation[..., 7:11], kernels.constant((0.707, 0.0, 0.0, 0.707)))
    level = kernels.at_least(1.0 - tilt / 0.2, 0.0)
    reward = 2.0 * kernels.hamacher(grab, ready) + 8.0 * lifted
    success = kernels.distance(lid, s.target) < 0.08
    return Outcome(np.where(success, 10.0, reward) * level, success, ready, grab >= 0.5, grab, lifted, 0.0)


def box_close_v1(s: Inputs) -> Outcome:
    """Reach the lid, lift it to the target height, then carry it; the reported grasp is 0."""
    lid = s.observation[..., 4:7]
    reach, reach_reward = kernels.approach(s, lid, 0.05, s.init_tcp[..., 2], 2.0)
    placing = kernels.distance(lid, s.target)
    held, lift_reward = kernels.lift(lid[..., 2], s["knob_height"], s["target_height"], placing, reach)
    place = kernels.at_least(kernels.progress(placing, s["max_placing"]), 0.0)
    reward = reach_reward + lift_reward + np.where(held & (reach < 0.1), place, 0.0)
    return Outcome(reward, placing < 0.08, 0.0, 0.0, 0.0, 0.0, 0.0)


def hand_insert_v2(s: Inputs) -> Outcome:
    """Grasp of the block and its closeness to the bottom of the hole together, a bonus in hand, 10 at the goal."""
    block, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(block, s.target)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = kernels.gripper_caging(
        s, block, obj_radius=0.015, pad_success_thresh=0.05, xz_thresh=0.005, high_density=True
    )
    to_block = kernels.distance(block, s.tcp)
    reward = kernels.carry(single, grasped, in_place, (to_block < 0.02) & (opened > 0), 7.0)
    return graded(s, block, reward, to_target, 0.05, grasped, in_place)


def hand_insert_v1(s: Inputs) -> Outcome:
    """Bring the fingers above the hole, then down; the block counts for nothing, success is decided at the reset."""
    reach = kernels.distance(s.tcp[..., :2], s.target[..., :2])
    lowering = abs(s.tcp[..., 2] - s.target[..., 2])
    reward = kernels.reach_then_move(reach, lowering, s["max_reach"])
    to_target = kernels.distance(s.obj_init, s.target)
    return Outcome(reward, to_target <= 0.05, 1.0, 0.0, 0.0, 0.0, to_target)


SPECS = (
    TaskSpec(
        name="box-close-v3",
        objects=_lid,
        reward_v2=box_close_v2,
        reward_v1=box_close_v1,
        probes={"lid": "body.top_link.xpos", "lid_quaternion": "body.top_link.xquat"},
        constants={"knob_height": "objHeight", "target_height": "heightTarget", "max_placing": "maxPlacingDist"},
    ),
    TaskSpec(
        name="hand-insert-v3",
        objects=_block,
        reward_v2=hand_insert_v2,
        reward_v1=hand_insert_v1,
        probes={"block": "body.obj.xpos", "block_quaternion": "body.obj.xquat", "touching": "touching.objGeom"},
        constants={"max_reach": "maxReachDist"},
    ),
)
