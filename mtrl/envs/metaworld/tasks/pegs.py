"""The peg in the side of a box: peg-insert-side-v3, peg-unplug-side-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec


def _peg(s: Inputs) -> tuple[Array, ...]:
    return s["peg"], kernels.quaternion(s["peg_matrix"])


def _plug(s: Inputs) -> tuple[Array, ...]:
    return s["plug"], s["plug_quaternion"]


def _outside_prisms(point: Array, zero: Array, one: Array) -> tuple[Array, Array]:
    """Where ``point (..., 3)`` is inside one of the prisms, and the product of ``1`` outside of each.

    Inside a prism, instead of 1, the fraction of its volume between the point and the corner ``zero (..., 2, 3)``.
    """
    point = point[..., None, :]
    inside = ((point >= np.minimum(zero, one)) & (point <= np.maximum(zero, one))).all(-1)
    part = (point - zero) / (one - zero)
    value = np.where(inside, part[..., 0] * part[..., 1] * part[..., 2], 1.0)
    return inside.any(-1), kernels.hamacher(value[..., 1], value[..., 0])


def peg_insert_side_v2(s: Inputs) -> Outcome:
    """Grasp of the peg and closeness of its head to the hole together, less inside the box's walls; 10 in the hole."""
    peg, opened, head = s.observation[..., 4:7], s.observation[..., 3], s["head"]
    to_peg = kernels.distance(peg, s.tcp)
    scale = kernels.constant((1.0, 2.0, 2.0))
    to_target = kernels.norm((head - s.target) * scale)
    in_place = kernels.within(to_target, 0.07, kernels.norm((s["head_init"] - s.target) * scale))
    inside, collision = _outside_prisms(head, s["zero_corners"], s["one_corners"])
    in_place = kernels.hamacher(in_place, collision)

    grasped, single = kernels.gripper_caging(
        s, peg, obj_radius=0.0075, pad_success_thresh=0.03, xz_thresh=0.005, high_density=True
    )
    raised = (opened > 0) & (peg[..., 2] - 0.01 > s.obj_init[..., 2])
    lifted = (to_peg < 0.08) & raised
    grasped = np.where(lifted, 1.0, grasped)
    # Of the package's numbers only the caging reward is float32, and inside a wall its partner is an np.float64.
    reward = kernels.carry(single & ~lifted & ~inside, grasped, in_place, lifted, 5.0)
    success = to_target <= 0.07
    return Outcome(
        reward=np.where(success, 10.0, reward),
        success=success,
        near_object=to_peg <= 0.03,
        grasp_success=(to_peg < 0.02) & raised,
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def peg_insert_side_v1(s: Inputs) -> Outcome:
    """Reach, lift to the target height, then carry: first the head, then the whole peg to the hole."""
    peg = s.observation[..., 4:7]
    reach, reach_reward = kernels.approach(s, peg, 0.05, s.init_tcp[..., 2], 1.0)
    placing = kernels.distance(peg, s.target)
    placing_head = kernels.distance(s["head"], s.target)
    held, lift_reward = kernels.lift(peg[..., 2], s["peg_height"], s["target_height"], placing, reach)
    remaining = np.where(placing_head <= 0.05, placing, placing_head)
    place = kernels.at_least(kernels.progress(remaining, s["max_placing"]), 0.0)
    reward = reach_reward + lift_reward + np.where(held & (reach < 0.1), place, 0.0)
    return Outcome(reward, placing <= 0.07, 1.0, 0.0, 0.0, 0.0, placing)


def peg_unplug_side_v2(s: Inputs) -> Outcome:
    """Twice the grasp of the plug; once it moves with the fingers, its closeness to the goal too; 10 at the goal."""
    plug, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_plug = kernels.distance(plug, s.tcp)
    to_target = kernels.distance(plug, s.target)
    grasped, single = kernels.gripper_caging(
        s,
        plug,
        obj_radius=0.025,
        pad_success_thresh=0.05,
        xz_thresh=0.005,
        desired_gripper_effort=0.8,
        high_density=True,
    )
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    pulled = (opened > 0.5) & (plug[..., 0] - s.obj_init[..., 0] > 0.015)
    carried = pulled & (to_plug < 0.035)

    def tail(grasped: Array, placed: Array) -> Array:
        return np.where(carried, 1.0 + 2.0 * grasped + placed, 2.0 * grasped)

    reward = kernels.mixed(single, tail, grasped, 5.0 * in_place)
    return Outcome(
        reward=np.where(to_target <= 0.05, 10.0, reward),
        success=to_target <= 0.07,
        near_object=to_plug <= 0.03,
        grasp_success=pulled,
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def peg_unplug_side_v1(s: Inputs) -> Outcome:
    """Reach the plug, then move it in the plane; the reported gripper error and grasp are 0."""
    plug = s.observation[..., 4:7]
    reach, reach_reward = kernels.approach(s, plug, 0.05, s.hand_init[..., 2], 2.0)
    placing = kernels.distance(plug[..., :2], s.target[..., :2])
    place = kernels.at_least(kernels.progress(placing, s["max_placing"]), 0.0)
    reward = reach_reward + np.where(reach < 0.05, place, 0.0)
    return Outcome(reward, placing <= 0.07, 1.0, 0.0, 0.0, 0.0, placing)


def _corners(corner: str) -> tuple[str, ...]:
    return tuple(f"site.{corner}_corner_collision_box_{number}.xpos" for number in (1, 2))


SPECS = (
    TaskSpec(
        name="peg-insert-side-v3",
        objects=_peg,
        reward_v2=peg_insert_side_v2,
        reward_v1=peg_insert_side_v1,
        probes={
            "peg": "site.pegGrasp.xpos",
            "peg_matrix": "site.pegGrasp.xmat",
            "head": "site.pegHead.xpos",
            "zero_corners": _corners("bottom_right"),
            "one_corners": _corners("top_left"),
        },
        constants={
            "head_init": "peg_head_pos_init",
            "peg_height": "objHeight",
            "target_height": "heightTarget",
            "max_placing": "maxPlacingDist",
        },
    ),
    TaskSpec(
        name="peg-unplug-side-v3",
        objects=_plug,
        reward_v2=peg_unplug_side_v2,
        reward_v1=peg_unplug_side_v1,
        probes={"plug": "site.pegEnd.xpos", "plug_quaternion": "body.plug1.xquat"},
        constants={"max_placing": "maxPlacingDist"},
    ),
)
