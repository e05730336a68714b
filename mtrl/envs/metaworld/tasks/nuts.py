"""The wrench around the peg: assembly-v3, disassemble-v3."""

from __future__ import annotations

import math
from typing import Any

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import TaskSpec, posed
from mtrl.envs.metaworld.tasks.kernels import distance, length, within
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector


def _handle(s: State) -> Vector:
    """The point at which to grab the wrench: its middle, but with the hand's x if that is less than 1 cm away."""
    hand, wrench = s.observation[0], s.observation[4:7]
    return hand if abs(wrench[0] - hand) < 0.01 else wrench[0], wrench[1], wrench[2]


def leveled(grab: Any, rest: Any, level: Any) -> Any:
    return (2.0 * grab + rest) * level


def _outcome_v2(s: State, grab: float, single: bool, in_place: float, success: bool) -> Outcome:
    """Rewards grasp and closeness to the goal, scaled by how level the wrench is; 10 on success."""
    tilt = kernels.quaternion_distance(s.observation[7:11], (0.707, 0.0, 0.0, 0.707))
    level = max(1.0 - tilt / 0.4, 0.0)
    reward = kernels.mixed(single, leveled, grab, 6.0 * in_place, level)
    return Outcome(10.0 if success else reward, success, level, grab >= 0.5, grab, in_place, 0.0)


def assembly_v2(s: State) -> Outcome:
    """Rewards grabbing the wrench and bringing its ring over the peg, at a height that falls towards the peg."""
    x, y, z = s.target[0] - s.ring[0], s.target[1] - s.ring[1], s.target[2] - s.ring[2]
    radius = math.sqrt(x * x + y * y)
    success = radius < 0.02 and z > 0.0
    # These heights form a funnel around the peg, whose neck is wider once the wrench is on the peg.
    outside = radius - (0.01 + 0.01 * float(success))
    height = 0.02 * math.log(max(outside, 1e-30)) + 0.2 if outside > 0.0 else 0.0
    lifted = s.ring[2] > 0.02 or outside < 0.0
    near = within(length(x, y, (height - s.ring[2]) * 3.0), 0.02, 0.4)
    grab, single = kernels.gripper_caging(s, _handle(s), 0.015, 0.02, 0.01, high_density=False, reach_radius=0.01)
    return _outcome_v2(s, grab, single, 0.1 * float(lifted) + 0.9 * near, success)


def disassemble_v2(s: State) -> Outcome:
    """Rewards grabbing the wrench and lifting its ring 10 cm above the goal. Success: it is above the goal's height."""
    error = distance(kernels.plus(s.target, (0.0, 0.0, 0.1)), s.ring)
    in_place = 0.1 * float(s.ring[2] > 0.02) + 0.9 * within(error, 0.02, 0.2)
    grab, single = kernels.gripper_caging(s, _handle(s), 0.015, 0.02, 0.01)
    return _outcome_v2(s, grab, single, in_place, s.observation[6] > s.target[2])


def _lift_v1(z: float, rest: float, height: float, placing: float, reach: float, near: float) -> tuple[bool, float]:
    """Like `kernels.lift`, but a held wrench must also be within ``near`` of the fingers.

    Held or not, the wrench gives ``100 min(height, z)`` off the ground and within 4 cm of the fingers.
    """
    ground = rest + 0.005
    dropped = z < ground and placing > 0.02 and reach > 0.02
    held = z >= height - 0.01 and reach < near and not dropped
    return held, 100.0 * min(height, z) if reach < 0.04 and z > ground else 0.0


def assembly_v1(s: State) -> Outcome:
    """Reach the wrench, lift it, bring it over the peg and let it down."""
    # Meta-World stores the height at rest only in resets for v1. Ours are those for v2 with either reward, so the
    # height is taken from the episode's first frame.
    s.rest_height = s.previous[6] if math.isnan(s.rest_height) else s.rest_height
    height = s.rest_height + 0.1
    reach, reach_reward = kernels.approach(s, s.observation[4:7], s.init_tcp[2], 1.0, 0.04, 0.04)
    aligned = abs(s.nut[0] - s.target[0]) < 0.03 and abs(s.nut[1] - s.target[1]) < 0.03
    placing = kernels.distance_xy(s.nut, s.target)
    held, lift_reward = _lift_v1(s.nut[2], s.rest_height, height, placing, reach, 0.03)
    held = held or aligned

    top = (s.obj_init[0], s.obj_init[1], height)
    place = kernels.progress(placing, distance(top, s.target) + height)
    above_rest = abs(s.nut[2] - s.rest_height)
    lower = 2000.0 * (height - above_rest) + kernels.near_bonus(above_rest, 2000.0, 0.003, 0.0003)
    place = max(place + (lower if aligned else 0.0), 0.0)
    reward = reach_reward + (100.0 * height if held else lift_reward) + (place if held else 0.0)
    return Outcome(reward, aligned and above_rest <= 0.04, 0.0, 0.0, 0.0, 0.0, 0.0)


def disassemble_v1(s: State) -> Outcome:
    """Reach the wrench and lift it to the goal.

    Once its ring is more than 5 cm from the peg in x or y, only placing and the full lifting reward count.
    """
    wrench, height = s.observation[4:7], s.target_height
    reach, reach_reward = kernels.approach(s, wrench, s.init_tcp[2], 2.0, 0.04, 0.04)
    placing = distance(wrench, s.target)
    held, lift_reward = _lift_v1(wrench[2], s.nut_height, height, placing, reach, 0.04)
    place_reward = max(kernels.progress(placing, s.max_placing), 0.0) if held and reach < 0.03 else 0.0
    away = abs(s.nut[0] - s.peg[0]) > 0.05 or abs(s.nut[1] - s.peg[1]) > 0.05
    lift_reward = 100.0 * height if held or away else lift_reward
    reward = (0.0 if away else reach_reward) + lift_reward + place_reward
    return Outcome(reward, wrench[2] > s.target[2], 0.0, 0.0, 0.0, 0.0, 0.0)


_PROBES = {
    "obj": "site.RoundNut-8.xpos",
    "ring": "site.RoundNut.xpos",
    "nut": "body.RoundNut.xpos",
    "obj_quaternion": "body.RoundNut.xquat",
}
_PEG = {
    "peg": "model.body.peg.pos",
    "nut_height": "objHeight",
    "target_height": "heightTarget",
    "max_placing": "maxPlacingDist",
}

SPECS = (
    TaskSpec("assembly-v3", posed, assembly_v2, assembly_v1, _PROBES, state=("rest_height",)),
    TaskSpec("disassemble-v3", posed, disassemble_v2, disassemble_v1, _PROBES, _PEG),
)
