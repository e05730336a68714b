"""The mug and the coffee machine: coffee-pull-v3, coffee-push-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, Reward, TaskSpec


def _mug(s: Inputs) -> tuple[Array, ...]:
    return s["mug"], kernels.quaternion(s["mug_matrix"])


def coffee_v2(s: Inputs) -> Outcome:
    """Grasp and closeness of the mug to its goal together, x and y weighing more; a bonus in hand, 10 at the goal."""
    mug, opened = s.observation[..., 4:7], s.observation[..., 3]
    scale = kernels.constant((2.0, 2.0, 1.0))
    scaled_error = kernels.norm((mug - s.target) * scale)
    in_place = kernels.within(scaled_error, 0.05, kernels.norm((s.obj_init - s.target) * scale))
    to_mug = kernels.distance(mug, s.tcp)
    grasped, single = kernels.gripper_caging(
        s,
        mug,
        reach_radius=0.04,
        obj_radius=0.02,
        pad_success_thresh=0.05,
        xz_thresh=0.05,
        desired_gripper_effort=0.7,
    )
    reward = kernels.carry(single, grasped, in_place, (to_mug < 0.04) & (opened > 0), 5.0)
    to_target = kernels.distance(mug, s.target)
    return Outcome(
        reward=np.where(scaled_error < 0.05, 10.0, reward),
        success=to_target <= 0.07,
        near_object=to_mug <= 0.03,
        grasp_success=(s["touching"] > 0) & (opened > 0),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def _outcome_v1(s: Inputs, mug: Array, reward: Array) -> Outcome:
    """The reported gripper error and opening are 0, so no grasp counts."""
    to_target = kernels.distance(mug, s.target)
    return Outcome(reward, to_target <= 0.07, 1.0, 0.0, 0.0, 0.0, to_target)


def coffee_pull_v1(s: Inputs) -> Outcome:
    """Reach the mug, then move it in the plane.

    The package takes the mug's own distance from the origin, at the gripper's first height, for its distance to the
    fingers in the plane: only within 5 cm of there does reaching count.
    """
    mug = s.observation[..., 4:7]
    reach = kernels.distance(mug, s.tcp)
    planar = kernels.norm(np.stack((mug[..., 0], mug[..., 1], s.init_tcp[..., 2]), -1))
    closing = np.where(reach < 0.05, kernels.closing_bonus(s.action), 0.0)
    reach_reward = np.where(planar < 0.05, -reach + 0.1 + closing, -planar)
    pulling = kernels.distance(mug[..., :2], s.target[..., :2])
    pull = kernels.at_least(kernels.progress(pulling, s["longest"]), 0.0)
    return _outcome_v1(s, mug, reach_reward + np.where(reach < 0.05, pull, 0.0))


def coffee_push_v1(s: Inputs) -> Outcome:
    """Reach the mug, then move it in the plane."""
    mug = s.observation[..., 4:7]
    pushing = kernels.distance(mug[..., :2], s.target[..., :2])
    reward = kernels.reach_then_move(kernels.distance(s.tcp, mug), pushing, s["longest"])
    return _outcome_v1(s, mug, reward)


def _coffee(name: str, reward_v1: Reward, longest: str) -> TaskSpec:
    return TaskSpec(
        name=name,
        objects=_mug,
        reward_v2=coffee_v2,
        reward_v1=reward_v1,
        probes={"mug": "body.obj.xpos", "mug_matrix": "geom.mug.xmat", "touching": "touching.mug"},
        constants={"longest": longest},
    )


SPECS = (
    _coffee("coffee-pull-v3", coffee_pull_v1, "maxPullDist"),
    _coffee("coffee-push-v3", coffee_push_v1, "maxPushDist"),
)
