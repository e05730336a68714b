"""Moving a thermos with a stick: stick-push-v3 and stick-pull-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec


def _stick_and_handle(s: Inputs) -> tuple[Array, ...]:
    stick, handle = s["stick"], s["handle"]
    no_quaternion = kernels.constant((0.0, 0.0, 0.0, 0.0))
    return stick, kernels.quaternion(s["stick_matrix"]), handle, no_quaternion


def _stick_and_container(s: Inputs) -> tuple[Array, ...]:
    stick, quaternion, handle, no_quaternion = _stick_and_handle(s)
    return stick, quaternion, handle + kernels.constant((0.0, 0.09, 0.0)), no_quaternion


def stick_push_v2(s: Inputs) -> Outcome:
    """Grasp of the stick; once lifted, closeness of stick and container to the goal, 10 with the latter there."""
    lower_stick, container, opened = s.observation[..., 4:7], s.observation[..., 11:14], s.observation[..., 3]
    stick = lower_stick + kernels.constant((0.015, 0.0, 0.0))
    to_stick = kernels.distance(stick, s.tcp)
    to_target = kernels.distance(container, s.target)
    stick_margin = kernels.distance(s["stick_init"], s.target) - 0.12
    stick_in_place = kernels.within(kernels.distance(stick, s.target), 0.12, stick_margin)
    in_place = kernels.within(to_target, 0.12, kernels.distance(s.obj_init, s.target) - 0.12)
    grasped, _ = kernels.gripper_caging(
        s, stick, obj_radius=0.04, pad_success_thresh=0.05, xz_thresh=0.01, high_density=True, initial=s["stick_init"]
    )
    arrived = to_target <= 0.12
    raised = (opened > 0) & (stick[..., 2] - 0.01 > s["stick_init"][..., 2])
    held = (to_stick < 0.02) & raised
    carrying = np.where(arrived, 10.0, 2.0 + 5.0 * stick_in_place + 3.0 * in_place)
    grasp_success = (s["touching"] > 0) & raised
    return Outcome(
        reward=np.where(held, carrying, grasped),
        success=grasp_success & arrived,
        near_object=to_stick <= 0.03,
        grasp_success=grasp_success,
        grasp_reward=np.where(held, 1.0, grasped),
        in_place_reward=stick_in_place,
        obj_to_target=to_target,
    )


def _inserted(s: Inputs, handle: Array) -> Array:
    """Whether the end of the stick is through the thermos's handle."""
    end = s["stick_end"]
    beside = abs(end - handle)
    return (end[..., 0] >= handle[..., 0]) & (beside[..., 1] <= 0.040) & (beside[..., 2] <= 0.060)


def _pull_closeness(s: Inputs, stick: Array, handle: Array) -> tuple[Array, Array, Array]:
    """How near the stick is to the container, the stick to the goal, and the container to the goal."""
    middle = kernels.constant((0.05, 0.0, 0.0))
    container, stick_init = handle + middle, s["stick_init"]
    scale = kernels.constant((1.0, 1.0, 2.0))
    margin = kernels.norm((stick_init - (s.obj_init + middle)) * scale)
    stick_in_place = kernels.within(kernels.norm((stick - container) * scale), 0.05, margin)
    margin = kernels.distance(stick_init, s.target)
    stick_at_goal = kernels.within(kernels.distance(stick, s.target), 0.05, margin)
    margin = kernels.distance(s.obj_init, s.target)
    container_at_goal = kernels.within(kernels.distance(container, s.target), 0.05, margin)
    return stick_in_place, stick_at_goal, container_at_goal


def stick_pull_v2(s: Inputs) -> Outcome:
    """Grasp and closeness of the stick to the container; once through the handle, closeness of both to the goal."""
    stick, handle, opened = s.observation[..., 4:7], s.observation[..., 11:14], s.observation[..., 3]
    to_stick = kernels.distance(stick, s.tcp)
    to_target = kernels.distance(handle, s.target)
    in_place, stick_at_goal, container_at_goal = _pull_closeness(s, stick, handle)
    grasped, single = kernels.gripper_caging(
        s, stick, obj_radius=0.014, pad_success_thresh=0.05, xz_thresh=0.01, high_density=True
    )
    held = (to_stick < 0.02) & (opened > 0) & (stick[..., 2] - 0.01 > s["stick_init"][..., 2])
    grasped = np.where(held, 1.0, grasped)
    both = kernels.mixed(single & ~held, kernels.hamacher, grasped, in_place)
    inserted, arrived = _inserted(s, handle), to_target <= 0.12
    pulling = np.where(arrived, 10.0, 1.0 + both + 5.0 + 2.0 * stick_at_goal + container_at_goal)
    return Outcome(
        reward=np.where(held, np.where(inserted, pulling, 1.0 + both + 5.0 * in_place), both),
        success=arrived & inserted,
        near_object=to_stick <= 0.03,
        grasp_success=kernels.grasped_and_raised(s, stick),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def _stick_v1(s: Inputs, sharpness: tuple[float, float]) -> tuple[Array, Array]:
    """Reach, lift the stick, bring it to the object and the object to the goal: ``(reward, moving)``, each ``(...)``.

    The package takes entries 6 to 8 of the observation, the stick's height and half of its quaternion, for the object.
    """
    stick, obj = s.observation[..., 4:7], s.observation[..., 6:9]
    moving = kernels.distance(obj[..., :2], s.target[..., :2])
    placing = kernels.distance(stick, obj)
    reach = kernels.distance(stick, s.tcp)
    reach_reward = np.where(reach < 0.05, -reach + kernels.closing_bonus(s.action), -reach)

    held, lift_reward = kernels.lift(stick[..., 2], s["stick_height"], s["target_height"], moving, reach)
    place = kernels.progress(placing, s["max_placing"])
    move = 1000 * (s["max_moving"] - moving) + kernels.near_bonus(moving, 2000.0, *sharpness)
    carry = kernels.at_least(place + np.where(placing < 0.05, move, 0.0), 0.0)
    return reach_reward + lift_reward + np.where(held & (reach < 0.1), carry, 0.0), moving


def stick_push_v1(s: Inputs) -> Outcome:
    """See `_stick_v1`; the reported gripper opening is 0, so no grasp counts and no success either."""
    reward, moving = _stick_v1(s, (0.001, 0.0001))
    return Outcome(reward, 0.0, 1.0, 0.0, 0.0, 0.0, moving)


def stick_pull_v1(s: Inputs) -> Outcome:
    """See `_stick_v1`; no grasp counts, but success is measured as in `stick_pull_v2`."""
    reward, moving = _stick_v1(s, (0.01, 0.001))
    handle = s.observation[..., 11:14]
    success = (kernels.distance(handle, s.target) <= 0.12) & _inserted(s, handle)
    return Outcome(reward, success, 1.0, 0.0, 0.0, 0.0, moving)


_PROBES = {
    "stick": "body.stick.xpos",
    "stick_matrix": "body.stick.xmat",
    "handle": "site.insertion.xpos",
    "touching": "touching.objGeom",
}
_CONSTANTS = {
    "stick_init": "stick_init_pos",
    "stick_height": "stickHeight",
    "target_height": "heightTarget",
    "max_placing": "maxPlaceDist",
}

SPECS = (
    TaskSpec(
        name="stick-push-v3",
        objects=_stick_and_container,
        reward_v2=stick_push_v2,
        reward_v1=stick_push_v1,
        probes=_PROBES,
        constants={**_CONSTANTS, "max_moving": "maxPushDist"},
    ),
    TaskSpec(
        name="stick-pull-v3",
        objects=_stick_and_handle,
        reward_v2=stick_pull_v2,
        reward_v1=stick_pull_v1,
        probes={**_PROBES, "stick_end": "site.stick_end.xpos"},
        constants={**_CONSTANTS, "max_moving": "maxPullDist"},
    ),
)
