"""Moving an object without lifting it: sweep-v3 (off the table), sweep-into-v3 (a hole) and soccer-v3 (a goal)."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed, posed_by_matrix
from mtrl.envs.metaworld.tasks.kernels import distance, distance_xy, scaled_distance, within
from mtrl.envs.metaworld.tasks.pick_place import PUCK
from mtrl.envs.metaworld.tasks.push import push_v1
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_GOAL_SCALE = (3.0, 1.0, 1.0)


def _sweep_to(s: State, target: Vector, grasped: float) -> Outcome:
    obj = s.observation[4:7]
    to_target, to_obj = distance(obj, target), distance(obj, s.tcp)
    in_place = within(to_target, 0.05, distance(s.obj_init, target))
    reward = 10.0 if to_target < 0.05 else 2.0 * grasped + 6.0 * kernels.hamacher(grasped, in_place)
    holding = s.touching > 0 and s.observation[3] > 0
    return Outcome(reward, to_target <= 0.05, to_obj <= 0.03, holding, grasped, in_place, to_target)


def sweep_v2(s: State) -> Outcome:
    """Rewards the grasp, and the Hamacher product of grasp and closeness to the goal; 10 at the goal."""
    return _sweep_to(s, s.target, kernels.pad_caging(s, s.observation[4:7], 0.02, 0.01, 0.005))


def sweep_into_v2(s: State) -> Outcome:
    """Like `sweep_v2`, with the goal at the height of the puck."""
    obj = s.observation[4:7]
    return _sweep_to(s, (s.target[0], s.target[1], obj[2]), kernels.pad_caging(s, obj, 0.02, 0.005, 0.01))


def soccer_v2(s: State) -> Outcome:
    """Rewards the grasp and a ball near the goal, with more weight on x. Beside the posts, closeness counts less."""
    obj = s.observation[4:7]
    to_target, error = distance(obj, s.target), scaled_distance(obj, s.target, _GOAL_SCALE)
    # The margin is how far the ball has come, so it grows during the episode.
    in_place = within(error, 0.07, scaled_distance(obj, s.obj_init, _GOAL_SCALE))
    goal_line = s.target[1] - 0.1
    if obj[1] > goal_line and abs(obj[0] - s.target[0]) > 0.10:
        in_place = kernels.clip(in_place - 2.0 * ((obj[1] - goal_line) / (1.0 - goal_line)), 0.0, 1.0)
    grasped = kernels.pad_caging(s, obj, 0.013, 0.01, 0.005)
    reward = 10.0 if error < 0.07 else 3.0 * grasped + 6.5 * in_place
    near, holding = distance(obj, s.tcp) <= 0.03, kernels.grasped_and_raised(s, obj)
    return Outcome(reward, to_target <= 0.07, near, holding, grasped, in_place, to_target)


def _sweep_v1(s: State, fallen: bool) -> Outcome:
    """`push_v1`, but within 5 cm of the goal; a fallen object counts as being at the goal."""
    obj = s.observation[4:7]
    reach = distance(s.tcp, obj)
    pushing = 0.0 if fallen else distance_xy(obj, s.target)
    # A fallen object near the fingers still earns the reward for pushing. Its distance to the fingers costs nothing.
    reward = kernels.reach_then_move(reach, pushing, s.longest) + (reach if fallen else 0.0)
    return kernels.outcome_v1(reward, pushing, 0.05)


def sweep_v1(s: State) -> Outcome:
    """Reach, then push. An object that falls off the table counts as being at the goal, wherever it falls."""
    return _sweep_v1(s, s.observation[6] < s.obj_init[2] - 0.05)


def sweep_into_v1(s: State) -> Outcome:
    """Reach, then push. An object that falls at a y between 0.4 and 1 counts as having fallen into the hole."""
    return _sweep_v1(s, s.observation[6] < s.obj_init[2] - 0.05 and 0.4 < s.observation[5] < 1.0)


_CUBE = {"obj": "body.obj.xpos", "obj_quaternion": "body.obj.xquat", "touching": "touching.objGeom"}
_BALL = {"obj": "body.soccer_ball.xpos", "obj_matrix": "body.soccer_ball.xmat", "touching": "touching.objGeom"}
_LONGEST = {"longest": "maxPushDist"}

SPECS = (
    TaskSpec("sweep-v3", posed, sweep_v2, sweep_v1, _CUBE, _LONGEST),
    TaskSpec("sweep-into-v3", posed_by_matrix, sweep_into_v2, sweep_into_v1, PUCK, _LONGEST),
    TaskSpec("soccer-v3", posed_by_matrix, soccer_v2, push_v1, _BALL, _LONGEST),
)
