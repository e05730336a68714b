"""The mug and the coffee machine: coffee-pull-v3, coffee-push-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Reward, TaskSpec, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State

_SCALE = (2.0, 2.0, 1.0)


def coffee_v2(s: State) -> Outcome:
    """Rewards a grasped mug near its goal (x and y count twice), with a bonus once it is in hand; 10 at the goal."""
    mug, opened = s.observation[4:7], s.observation[3]
    error = kernels.scaled_distance(mug, s.target, _SCALE)
    in_place = within(error, 0.05, kernels.scaled_distance(s.obj_init, s.target, _SCALE))
    to_mug, to_target = distance(mug, s.tcp), distance(mug, s.target)
    grasped, single = kernels.gripper_caging(
        s, mug, 0.02, 0.05, 0.05, effort=0.7, high_density=False, reach_radius=0.04
    )
    in_hand = to_mug < 0.04 and opened > 0
    reward = kernels.carry(single, grasped, in_place, in_hand, 1.0 + 5.0 * in_place)
    reward = 10.0 if error < 0.05 else reward
    holding = s.touching > 0 and opened > 0
    return Outcome(reward, to_target <= 0.07, to_mug <= 0.03, holding, grasped, in_place, to_target)


def coffee_pull_v1(s: State) -> Outcome:
    """Reach the mug, then move it in the plane.

    In place of the planar distance between mug and fingers, Meta-World uses the length of the vector (mug x, mug y,
    initial gripper height). Only if that is below 5 cm do reaching and closing the gripper count.
    """
    mug = s.observation[4:7]
    reach = distance(mug, s.tcp)
    planar = kernels.length(mug[0], mug[1], s.init_tcp[2])
    closing = kernels.closing_bonus(s) if reach < 0.05 else 0.0
    reach_reward = -reach + 0.1 + closing if planar < 0.05 else -planar
    pull = max(kernels.progress(kernels.distance_xy(mug, s.target), s.longest), 0.0)
    return kernels.outcome_v1(reach_reward + (pull if reach < 0.05 else 0.0), distance(mug, s.target), 0.07)


def coffee_push_v1(s: State) -> Outcome:
    """Reach the mug, then move it in the plane."""
    mug = s.observation[4:7]
    reward = kernels.reach_then_move(distance(s.tcp, mug), kernels.distance_xy(mug, s.target), s.longest)
    return kernels.outcome_v1(reward, distance(mug, s.target), 0.07)


def _coffee(name: str, reward_v1: Reward, longest: str) -> TaskSpec:
    probes = {"obj": "body.obj.xpos", "obj_matrix": "geom.mug.xmat", "touching": "touching.mug"}
    return TaskSpec(name, posed_by_matrix, coffee_v2, reward_v1, probes, {"longest": longest})


SPECS = (
    _coffee("coffee-pull-v3", coffee_pull_v1, "maxPullDist"),
    _coffee("coffee-push-v3", coffee_push_v1, "maxPushDist"),
)
