"""Tools held in the gripper: hammer-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec


def _hammer_and_nail(s: Inputs) -> tuple[Array, ...]:
    return s["hammer"], s["hammer_quaternion"], s["nail"], s["nail_quaternion"]


def hammer_v2(s: Inputs) -> Outcome:
    """Grasp of the handle and closeness of the head to the nail, scaled by how level the hammer is."""
    hand, hammer = s.observation[..., :3], s.observation[..., 4:7]
    head = hammer + kernels.constant((0.16, 0.06, 0.0))
    # The handle is long: anywhere along it counts as being at its middle in x.
    beside = abs(hammer[..., :1] - hand[..., :1]) < 0.07
    along_x = np.where(beside, hand, hammer)
    grip_point = np.where(kernels.constant((1.0, 0.0, 0.0)) > 0, along_x, hammer)

    tilt = kernels.distance(s.observation[..., 7:11], kernels.constant((1.0, 0.0, 0.0, 0.0)))
    level = kernels.at_least(1.0 - tilt / 0.4, 0.0)
    grab, single = kernels.gripper_caging(
        s, grip_point, obj_radius=0.015, pad_success_thresh=0.02, xz_thresh=0.01, high_density=True
    )
    near_nail = kernels.within(kernels.distance(s.target, head), 0.02, 0.2)
    in_place = 0.1 * kernels.indicator(head[..., 2] > 0.02) + 0.9 * near_nail
    reward = kernels.mixed(single, lambda grab, rest, level: (2.0 * grab + rest) * level, grab, 6.0 * in_place, level)
    success = s["nail_depth"] > 0.09
    return Outcome(
        reward=np.where(success & (reward > 5.0), 10.0, reward),
        success=success,
        near_object=level,
        grasp_success=grab >= 0.5,
        grasp_reward=grab,
        in_place_reward=in_place,
        obj_to_target=0.0,
    )


def hammer_v1(s: Inputs) -> Outcome:
    """Reach, lift the hammer, then bring its head to the nail and the nail into the box."""
    hammer = s.observation[..., 4:7]
    hammering = kernels.distance(s["nail_head"], s["hammer_head"])
    screwing = abs(s["nail_head"][..., 1] - s.target[..., 1])
    reach = kernels.distance(hammer, s.tcp)
    reach_reward = np.where(reach < 0.05, -reach + kernels.closing_bonus(s.action), -reach)

    held, lift_reward = kernels.lift(hammer[..., 2], s["hammer_height"], s["target_height"], hammering, reach)
    drive = 1000 * (s["max_hammering"] - hammering - screwing) + kernels.near_bonus(hammering + screwing)
    drive_reward = np.where(held & (reach < 0.1), kernels.at_least(drive, 0.0), 0.0)
    return Outcome(reach_reward + lift_reward + drive_reward, s["nail_depth"] > 0.09, 0.0, 0.0, 0.0, 0.0, 0.0)


SPECS = (
    TaskSpec(
        name="hammer-v3",
        objects=_hammer_and_nail,
        reward_v2=hammer_v2,
        reward_v1=hammer_v1,
        probes={
            "hammer": "body.hammer.xpos",
            "hammer_quaternion": "body.hammer.xquat",
            "hammer_head": "geom.HammerHead.xpos",
            "nail": "body.nail_link.xpos",
            "nail_quaternion": "body.nail_link.xquat",
            "nail_head": "site.nailHead.xpos",
            "nail_depth": "joint.NailSlideJoint.qpos",
        },
        constants={
            "target_height": "heightTarget",
            "hammer_height": "hammerHeight",
            "max_hammering": "maxHammerDist",
        },
    ),
)
