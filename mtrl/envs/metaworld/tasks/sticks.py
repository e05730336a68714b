"""Moving a thermos with a stick: stick-push-v3 and stick-pull-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import NO_QUATERNION, TaskSpec, quaternion
from mtrl.envs.metaworld.tasks.kernels import distance, plus, scaled_distance, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

_MIDDLE, _SCALE = (0.05, 0.0, 0.0), (1.0, 1.0, 2.0)


def _stick_and_handle(s: State) -> Vector:
    return *s.stick, *quaternion(s.stick_matrix), *s.handle, *NO_QUATERNION


def _stick_and_container(s: State) -> Vector:
    container = plus(s.handle, (0.0, 0.09, 0.0))
    return *s.stick, *quaternion(s.stick_matrix), *container, *NO_QUATERNION


def stick_push_v2(s: State) -> Outcome:
    """Rewards the grasp of the stick and, once it is lifted, a stick and a container near the goal; 10 at the goal."""
    container, opened, stick = s.observation[11:14], s.observation[3], plus(s.observation[4:7], (0.015, 0.0, 0.0))
    to_stick, to_target = distance(stick, s.tcp), distance(container, s.target)
    stick_in_place = within(distance(stick, s.target), 0.12, distance(s.stick_init, s.target) - 0.12)
    in_place = within(to_target, 0.12, distance(s.obj_init, s.target) - 0.12)
    grasped, _ = kernels.gripper_caging(s, stick, 0.04, 0.05, 0.01, initial=s.stick_init)
    raised = opened > 0 and stick[2] - 0.01 > s.stick_init[2]
    arrived, holding = to_target <= 0.12, s.touching > 0 and raised
    reward = grasped
    if to_stick < 0.02 and raised:
        grasped = 1.0
        reward = 10.0 if arrived else 2.0 + 5.0 * stick_in_place + 3.0 * in_place
    return Outcome(reward, holding and arrived, to_stick <= 0.03, holding, grasped, stick_in_place, to_target)


def _inserted(s: State, handle: Vector) -> bool:
    """Whether the end of the stick is through the thermos's handle."""
    end = s.stick_end
    return end[0] >= handle[0] and abs(end[1] - handle[1]) <= 0.040 and abs(end[2] - handle[2]) <= 0.060


def stick_pull_v2(s: State) -> Outcome:
    """Rewards a grasped stick near the container and, once through the handle, both near the goal; 10 at the goal."""
    stick, handle, opened = s.observation[4:7], s.observation[11:14], s.observation[3]
    to_stick, to_target = distance(stick, s.tcp), distance(handle, s.target)
    container = plus(handle, _MIDDLE)
    margin = scaled_distance(s.stick_init, plus(s.obj_init, _MIDDLE), _SCALE)
    in_place = within(scaled_distance(stick, container, _SCALE), 0.05, margin)
    stick_at_goal = within(distance(stick, s.target), 0.05, distance(s.stick_init, s.target))
    container_at_goal = within(distance(container, s.target), 0.05, distance(s.obj_init, s.target))
    grasped, single = kernels.gripper_caging(s, stick, 0.014, 0.05, 0.01)
    held = to_stick < 0.02 and opened > 0 and stick[2] - 0.01 > s.stick_init[2]
    grasped = 1.0 if held else grasped
    reward = kernels.mixed(single and not held, kernels.hamacher, grasped, in_place)
    inserted, arrived = _inserted(s, handle), to_target <= 0.12
    if held and inserted:
        reward = 10.0 if arrived else 1.0 + reward + 5.0 + 2.0 * stick_at_goal + container_at_goal
    elif held:
        reward = 1.0 + reward + 5.0 * in_place
    holding = kernels.grasped_and_raised(s, stick)
    return Outcome(reward, arrived and inserted, to_stick <= 0.03, holding, grasped, in_place, to_target)


def _stick_v1(s: State, c2: float, c3: float) -> tuple[float, float]:
    """Reach and lift the stick, bring it to the object, then bring the object to the goal.

    Returns the reward and the object's planar distance to the goal.

    As in Meta-World, the object is read from entries 6 to 8 of the observation, although these are the stick's height
    and half of its quaternion.
    """
    stick, obj = s.observation[4:7], s.observation[6:9]
    moving, placing = kernels.distance_xy(obj, s.target), distance(stick, obj)
    reach = distance(stick, s.tcp)
    reach_reward = -reach + kernels.closing_bonus(s) if reach < 0.05 else -reach
    held, lift_reward = kernels.lift(stick[2], s.stick_height, s.target_height, moving, reach)
    place = kernels.progress(placing, s.max_placing)
    move = 1000 * (s.max_moving - moving) + kernels.near_bonus(moving, 2000.0, c2, c3)
    carry = max(place + (move if placing < 0.05 else 0.0), 0.0)
    return reach_reward + lift_reward + (carry if held and reach < 0.1 else 0.0), moving


def stick_push_v1(s: State) -> Outcome:
    """See `_stick_v1`. As in Meta-World, no grasp is reported, and so no success either."""
    reward, moving = _stick_v1(s, 0.001, 0.0001)
    return Outcome(reward, 0.0, 1.0, 0.0, 0.0, 0.0, moving)


def stick_pull_v1(s: State) -> Outcome:
    """See `_stick_v1`. No grasp is reported, but success is measured as in `stick_pull_v2`."""
    reward, moving = _stick_v1(s, 0.01, 0.001)
    handle = s.observation[11:14]
    success = distance(handle, s.target) <= 0.12 and _inserted(s, handle)
    return Outcome(reward, success, 1.0, 0.0, 0.0, 0.0, moving)


_PROBES = {
    "stick": "body.stick.xpos",
    "stick_matrix": "body.stick.xmat",
    "handle": "site.insertion.xpos",
    "touching": "touching.objGeom",
}
_END = {"stick_end": "site.stick_end.xpos"}
_CONSTANTS = {
    "stick_init": "stick_init_pos",
    "stick_height": "stickHeight",
    "target_height": "heightTarget",
    "max_placing": "maxPlaceDist",
}
_PUSH, _PULL = {**_CONSTANTS, "max_moving": "maxPushDist"}, {**_CONSTANTS, "max_moving": "maxPullDist"}

SPECS = (
    TaskSpec("stick-push-v3", _stick_and_container, stick_push_v2, stick_push_v1, _PROBES, _PUSH),
    TaskSpec("stick-pull-v3", _stick_and_handle, stick_pull_v2, stick_pull_v1, _PROBES | _END, _PULL),
)
