"""Closing a box and going into one: box-close-v3, hand-insert-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Namespace, Outcome, TaskSpec


def _lid(xp: Namespace, s: Inputs) -> tuple[Array, ...]:
    return s["lid"], s["lid_quaternion"]


def _block(xp: Namespace, s: Inputs) -> tuple[Array, ...]:
    return s["block"], s["block_quaternion"]


def box_close_v2(xp: Namespace, s: Inputs) -> Outcome:
    """The closed gripper at the lid's knob and the lid's closeness to the box, scaled by how level the lid is."""
    hand, lid = s.observation[..., :3], s.observation[..., 4:7]
    knob = lid + kernels.constant(xp, (0.0, 0.0, 0.02), lid)
    floor = kernels.above_floor(xp, hand, knob, 0.02)
    ready = kernels.hamacher(floor, kernels.within(xp, kernels.distance(xp, hand, knob), 0.02, 0.5))

    error = kernels.norm(xp, (s.target - knob) * kernels.constant(xp, (1.0, 1.0, 3.0), lid))
    raised = kernels.indicator(xp, knob[..., 2] > 0.04)
    lifted = 0.2 * raised + 0.8 * kernels.within(xp, error, 0.05, 0.25)

    grab = kernels.grab_effort(xp, s.action)
    tilt = kernels.distance(xp, s.observation[..., 7:11], kernels.constant(xp, (0.707, 0.0, 0.0, 0.707), lid))
    level = kernels.at_least(xp, 1.0 - tilt / 0.2, 0.0)
    reward = 2.0 * kernels.hamacher(grab, ready) + 8.0 * lifted
    success = kernels.distance(xp, lid, s.target) < 0.08
    return Outcome(xp.where(success, 10.0, reward) * level, success, ready, grab >= 0.5, grab, lifted, 0.0)


def box_close_v1(xp: Namespace, s: Inputs) -> Outcome:
    """Reach the lid, lift it to the target height, then carry it; the reported grasp is 0."""
    lid = s.observation[..., 4:7]
    reach, reach_reward = kernels.approach(xp, s, lid, 0.05, s.init_tcp[..., 2], 2.0)
    placing = kernels.distance(xp, lid, s.target)
    held, lift_reward = kernels.lift(xp, lid[..., 2], s["knob_height"], s["target_height"], placing, reach)
    place = kernels.at_least(xp, kernels.progress(xp, placing, s["max_placing"]), 0.0)
    reward = reach_reward + lift_reward + xp.where(held & (reach < 0.1), place, 0.0)
    return Outcome(reward, placing < 0.08, 0.0, 0.0, 0.0, 0.0, 0.0)


def hand_insert_v2(xp: Namespace, s: Inputs) -> Outcome:
    """Grasp of the block and its closeness to the bottom of the hole together, a bonus in hand, 10 at the goal."""
    block, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(xp, block, s.target)
    in_place = kernels.within(xp, to_target, 0.05, kernels.distance(xp, s.obj_init, s.target))
    grasped, single = kernels.gripper_caging(
        xp,
        s,
        block,
        object_reach_radius=0.01,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        xz_thresh=0.005,
        high_density=True,
    )
    to_block = kernels.distance(xp, block, s.tcp)
    reward = kernels.carry(xp, single, grasped, in_place, (to_block < 0.02) & (opened > 0), 7.0)
    return Outcome(
        reward=xp.where(to_target < 0.05, 10.0, reward),
        success=to_target <= 0.05,
        near_object=to_block <= 0.03,
        grasp_success=kernels.grasped_and_raised(s, block),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def hand_insert_v1(xp: Namespace, s: Inputs) -> Outcome:
    """Bring the fingers above the hole, then down; the block counts for nothing, success is decided at the reset."""
    reach = kernels.distance(xp, s.tcp[..., :2], s.target[..., :2])
    lowering = abs(s.tcp[..., 2] - s.target[..., 2])
    reward = kernels.reach_then_move(xp, reach, lowering, s["max_reach"])
    to_target = kernels.distance(xp, s.obj_init, s.target)
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
