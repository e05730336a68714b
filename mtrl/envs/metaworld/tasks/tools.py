"""Tools held in the gripper: hammer-v3."""

from __future__ import annotations

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec
from mtrl.envs.metaworld.tasks.kernels import distance, within
from mtrl.envs.metaworld.tasks.nuts import leveled
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector


def _hammer_and_nail(s: State) -> Vector:
    return *s.hammer, *s.hammer_quaternion, *s.nail, *s.nail_quaternion


def hammer_v2(s: State) -> Outcome:
    """Rewards grasping the handle, lifting the head and moving it to the nail's goal; less if the hammer tilts.

    10 if the nail is driven in and this reward is over 5.
    """
    hand, hammer = s.observation[:3], s.observation[4:7]
    head = kernels.plus(hammer, (0.16, 0.06, 0.0))
    # The handle is long, so a hand anywhere along it counts as being at its middle in x.
    grip_point = (hand[0] if abs(hammer[0] - hand[0]) < 0.07 else hammer[0], hammer[1], hammer[2])
    grab, single = kernels.gripper_caging(s, grip_point, 0.015, 0.02, 0.01)

    tilt = kernels.quaternion_distance(s.observation[7:11], (1.0, 0.0, 0.0, 0.0))
    level = max(1.0 - tilt / 0.4, 0.0)
    in_place = 0.1 * float(head[2] > 0.02) + 0.9 * within(distance(s.target, head), 0.02, 0.2)
    reward = kernels.mixed(single, leveled, grab, 6.0 * in_place, level)
    success = s.nail_depth > 0.09
    reward = 10.0 if success and reward > 5.0 else reward
    return Outcome(reward, success, level, grab >= 0.5, grab, in_place, 0.0)


def hammer_v1(s: State) -> Outcome:
    """Reach, lift the hammer, then bring its head to the nail and the nail into the box."""
    hammer = s.observation[4:7]
    hammering, screwing = distance(s.nail_head, s.hammer_head), abs(s.nail_head[1] - s.target[1])
    reach = distance(hammer, s.tcp)
    reach_reward = -reach + kernels.closing_bonus(s) if reach < 0.05 else -reach
    held, lift_reward = kernels.lift(hammer[2], s.hammer_height, s.target_height, hammering, reach)
    drive = 1000 * (s.max_hammering - hammering - screwing) + kernels.near_bonus(hammering + screwing)
    reward = reach_reward + lift_reward + (max(drive, 0.0) if held and reach < 0.1 else 0.0)
    return Outcome(reward, s.nail_depth > 0.09, 0.0, 0.0, 0.0, 0.0, 0.0)


_PROBES = {
    "hammer": "body.hammer.xpos",
    "hammer_quaternion": "body.hammer.xquat",
    "hammer_head": "geom.HammerHead.xpos",
    "nail": "body.nail_link.xpos",
    "nail_quaternion": "body.nail_link.xquat",
    "nail_head": "site.nailHead.xpos",
    "nail_depth": "joint.NailSlideJoint.qpos",
}
_HEIGHTS = {"target_height": "heightTarget", "hammer_height": "hammerHeight", "max_hammering": "maxHammerDist"}

SPECS = (TaskSpec("hammer-v3", _hammer_and_nail, hammer_v2, hammer_v1, _PROBES, _HEIGHTS),)
