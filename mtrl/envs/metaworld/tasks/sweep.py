"""Moving an object without lifting it: sweep-v3 (off the table), sweep-into-v3 (a hole) and soccer-v3 (a goal)."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec
from mtrl.envs.metaworld.tasks.pick_place import PUCK, puck
from mtrl.envs.metaworld.tasks.push import push_v1


def _cube(s: Inputs) -> tuple[Array, ...]:
    return s["obj"], s["obj_quaternion"]


def _sweep_to(s: Inputs, obj: Array, target: Array, grasped: Array) -> Outcome:
    to_target = kernels.distance(obj, target)
    to_obj = kernels.distance(obj, s.tcp)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, target))
    reward = 2.0 * grasped + 6.0 * kernels.hamacher(grasped, in_place)
    return Outcome(
        reward=np.where(to_target < 0.05, 10.0, reward),
        success=to_target <= 0.05,
        near_object=to_obj <= 0.03,
        grasp_success=(s["touching"] > 0) & (s.observation[..., 3] > 0),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def sweep_v2(s: Inputs) -> Outcome:
    """Grasp, and closeness of the cube to the goal in the measure of the grasp; 10 at the goal."""
    obj = s.observation[..., 4:7]
    grasped = kernels.pad_caging(s, obj, obj_radius=0.02, grip_margin=0.01, xz_margin=0.005)
    return _sweep_to(s, obj, s.target, grasped)


def sweep_into_v2(s: Inputs) -> Outcome:
    """As `sweep_v2`, with the goal at the height of the puck."""
    obj = s.observation[..., 4:7]
    grasped = kernels.pad_caging(s, obj, obj_radius=0.02, grip_margin=0.005, xz_margin=0.01)
    target = np.where(kernels.constant((0.0, 0.0, 1.0)) > 0, obj, s.target)
    return _sweep_to(s, obj, target, grasped)


def soccer_v2(s: Inputs) -> Outcome:
    """Grasp and closeness to the goal, x weighing more; less of the latter for a ball beside the goal's posts."""
    obj = s.observation[..., 4:7]
    to_target = kernels.distance(obj, s.target)
    scale = kernels.constant((3.0, 1.0, 1.0))
    error = kernels.norm((obj - s.target) * scale)
    # The margin is the way that the ball has come, and so grows during the episode.
    in_place = kernels.within(error, 0.07, kernels.norm((obj - s.obj_init) * scale))

    goal_line = s.target[..., 1] - 0.1
    missing = (obj[..., 1] > goal_line) & (abs(obj[..., 0] - s.target[..., 0]) > 0.10)
    reduced = in_place - 2.0 * ((obj[..., 1] - goal_line) / (1.0 - goal_line))
    in_place = np.where(missing, kernels.at_most(kernels.at_least(reduced, 0.0), 1.0), in_place)
    grasped = kernels.pad_caging(s, obj, obj_radius=0.013, grip_margin=0.01, xz_margin=0.005)
    return Outcome(
        reward=np.where(error < 0.07, 10.0, 3.0 * grasped + 6.5 * in_place),
        success=to_target <= 0.07,
        near_object=kernels.distance(obj, s.tcp) <= 0.03,
        grasp_success=kernels.grasped_and_raised(s, obj),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def _sweep_v1(s: Inputs, obj: Array, fallen: Array) -> Outcome:
    """`push_v1` until the object has fallen; then it counts as being at the goal."""
    reach = kernels.distance(s.tcp, obj)
    pushing = np.where(fallen, 0.0, kernels.distance(obj[..., :2], s.target[..., :2]))
    # Near the fingers, a fallen object still earns the push; only the distance to it costs nothing any more.
    reward = kernels.reach_then_move(reach, pushing, s["max_pushing"]) + np.where(fallen, reach, 0.0)
    return Outcome(reward, pushing <= 0.05, 1.0, 0.0, 0.0, 0.0, pushing)


def sweep_v1(s: Inputs) -> Outcome:
    """Reach, then push; falling off the table ends the task well, wherever it happens."""
    obj = s.observation[..., 4:7]
    return _sweep_v1(s, obj, obj[..., 2] < s.obj_init[..., 2] - 0.05)


def sweep_into_v1(s: Inputs) -> Outcome:
    """Reach, then push; falling anywhere over the table's length counts as falling into the hole."""
    obj = s.observation[..., 4:7]
    over_table = (obj[..., 1] > 0.4) & (obj[..., 1] < 1.0)
    return _sweep_v1(s, obj, (obj[..., 2] < s.obj_init[..., 2] - 0.05) & over_table)


SPECS = (
    TaskSpec(
        name="sweep-v3",
        objects=_cube,
        reward_v2=sweep_v2,
        reward_v1=sweep_v1,
        probes={"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat", "touching": "touching.objGeom"},
        constants={"max_pushing": "maxPushDist"},
    ),
    TaskSpec(
        name="sweep-into-v3",
        objects=puck,
        reward_v2=sweep_into_v2,
        reward_v1=sweep_into_v1,
        probes=PUCK,
        constants={"max_pushing": "maxPushDist"},
    ),
    TaskSpec(
        name="soccer-v3",
        objects=puck,
        reward_v2=soccer_v2,
        reward_v1=push_v1,
        probes={
            "obj": "body.soccer_ball.xpos",
            "obj_matrix": "body.soccer_ball.xmat",
            "touching": "touching.objGeom",
        },
        constants={"max_pushing": "maxPushDist"},
    ),
)
