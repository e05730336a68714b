"""Reaching: reach-v3 and reach-wall-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, Reward, TaskSpec


def _puck(s: Inputs) -> tuple[Array, ...]:
    return s["obj"], kernels.quaternion(s["obj_matrix"])


def _outcome(reward: Array, to_target: Array, in_place: Array | float) -> Outcome:
    return Outcome(
        reward=reward,
        success=to_target <= 0.05,
        near_object=to_target,
        grasp_success=1.0,
        grasp_reward=to_target,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def reach_v2(s: Inputs) -> Outcome:
    """Ten times the closeness of the fingers to the goal."""
    to_target = kernels.distance(s.tcp, s.target)
    margin = kernels.distance(s.hand_init, s.target)
    in_place = kernels.within(to_target, 0.05, margin)
    return _outcome(10 * in_place, to_target, in_place)


def reach_v1(s: Inputs) -> Outcome:
    """Progress towards the goal plus a bonus near it, never negative."""
    to_target = kernels.distance(s.tcp, s.target)
    reward = kernels.progress(to_target, s["max_reach"])
    return _outcome(kernels.at_least(reward, 0.0), to_target, 0.0)


def reach_wall_v2(s: Inputs) -> Outcome:
    """As `reach_v2`; no info on an object."""
    return reach_v2(s)._replace(near_object=0.0, grasp_success=0.0, grasp_reward=0.0)


def reach_wall_v1(s: Inputs) -> Outcome:
    """As `reach_v1`; no info on an object."""
    return reach_v1(s)._replace(near_object=0.0, grasp_success=0.0, grasp_reward=0.0)


def _spec(name: str, reward_v2: Reward, reward_v1: Reward) -> TaskSpec:
    return TaskSpec(
        name=name,
        objects=_puck,
        reward_v2=reward_v2,
        reward_v1=reward_v1,
        probes={"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat"},
        constants={"max_reach": "maxReachDist"},
    )


SPECS = (
    _spec("reach-v3", reach_v2, reach_v1),
    _spec("reach-wall-v3", reach_wall_v2, reach_wall_v1),
)
