"""The wrench around the peg: assembly-v3, disassemble-v3."""

from __future__ import annotations

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, Array, Inputs, Outcome, TaskSpec

_PREVIOUS_HEIGHT = CURRENT_SIZE + 6


def _wrench(s: Inputs) -> tuple[Array, ...]:
    return s["grip_point"], s["nut_quaternion"]


def _grab_v2(s: Inputs, *, high_density: bool) -> tuple[Array, Array]:
    """The caging reward of the wrench's handle: within 1 cm of its middle in x counts as being at the middle."""
    hand, wrench = s.observation[..., 0], s.observation[..., 4:7]
    x = np.where(abs(wrench[..., 0] - hand) < 0.01, hand, wrench[..., 0])
    return kernels.gripper_caging(
        s,
        np.stack((x, wrench[..., 1], wrench[..., 2]), -1),
        reach_radius=None if high_density else 0.01,
        obj_radius=0.015,
        pad_success_thresh=0.02,
        xz_thresh=0.01,
        high_density=high_density,
    )


def _outcome_v2(s: Inputs, grabbed: tuple[Array, Array], in_place: Array, success: Array) -> Outcome:
    """Grasp and closeness to the goal, scaled by how level the wrench is; 10 at the goal."""
    grab, single = grabbed
    level_quaternion = kernels.constant((0.707, 0.0, 0.0, 0.707))
    tilt = kernels.distance(s.observation[..., 7:11], level_quaternion)
    level = kernels.at_least(1.0 - tilt / 0.4, 0.0)
    reward = kernels.mixed(single, lambda grab, rest, level: (2.0 * grab + rest) * level, grab, 6.0 * in_place, level)
    return Outcome(np.where(success, 10.0, reward), success, level, grab >= 0.5, grab, in_place, 0.0)


def assembly_v2(s: Inputs) -> Outcome:
    """Grab the wrench and bring its ring over the peg: to a height that falls with the distance from the peg."""
    ring = s["ring"]
    error = s.target - ring
    radius = kernels.norm(error[..., :2])
    success = (radius < 0.02) & (error[..., 2] > 0.0)
    # The funnel's neck is wider once the wrench is on the peg.
    outside = radius - (0.01 + 0.01 * kernels.indicator(success))
    height = np.where(outside > 0.0, 0.02 * np.log(kernels.at_least(outside, 1e-30)) + 0.2, 0.0)
    scaled = np.stack((error[..., 0], error[..., 1], (height - ring[..., 2]) * 3.0), -1)
    lifted = (ring[..., 2] > 0.02) | (outside < 0.0)
    near = kernels.within(kernels.norm(scaled), 0.02, 0.4)
    in_place = 0.1 * kernels.indicator(lifted) + 0.9 * near
    return _outcome_v2(s, _grab_v2(s, high_density=False), in_place, success)


def disassemble_v2(s: Inputs) -> Outcome:
    """Grab the wrench and lift its ring to 10 cm above the goal; passing the goal's height is enough."""
    ring = s["ring"]
    error = kernels.norm(s.target + kernels.constant((0.0, 0.0, 0.1)) - ring)
    in_place = 0.1 * kernels.indicator(ring[..., 2] > 0.02) + 0.9 * kernels.within(error, 0.02, 0.2)
    success = s.observation[..., 6] > s.target[..., 2]
    return _outcome_v2(s, _grab_v2(s, high_density=True), in_place, success)


def _lift_v1(z: Array, rest: Array, height: Array, placing: Array, reach: Array, near: float) -> tuple[Array, Array]:
    """`kernels.lift`, but the wrench also has to be within ``near`` of the fingers to be held; the reward if not."""
    ground = rest + 0.005
    dropped = (z < ground) & (placing > 0.02) & (reach > 0.02)
    held = (z >= height - 0.01) & (reach < near) & ~dropped
    return held, np.where((reach < 0.04) & (z > ground), 100.0 * np.minimum(height, z), 0.0)


def assembly_v1(s: Inputs) -> Outcome:
    """Reach the wrench, lift it, bring it over the peg and let it down."""
    rest = s["rest_height"]
    # The package has this height only where it was made for this version; the frame of the reset shows it.
    rest[...] = np.where(np.isnan(rest), s.observation[..., _PREVIOUS_HEIGHT], rest)
    height = rest + 0.1
    nut = s["nut"]
    reach, reach_reward = kernels.approach(s, s.observation[..., 4:7], 0.04, s.init_tcp[..., 2], 1.0)
    error = abs(nut - s.target)
    aligned = (error[..., 0] < 0.03) & (error[..., 1] < 0.03)
    placing = kernels.norm(error[..., :2])
    held, lift_reward = _lift_v1(nut[..., 2], rest, height, placing, reach, 0.03)
    held = held | aligned

    top = np.stack((s.obj_init[..., 0], s.obj_init[..., 1], height), -1)
    place = kernels.progress(placing, kernels.distance(top, s.target) + height)
    above_rest = abs(nut[..., 2] - rest)
    lower = 2000.0 * (height - above_rest) + kernels.near_bonus(above_rest, 2000.0, 0.003, 0.0003)
    place = kernels.at_least(place + np.where(aligned, lower, 0.0), 0.0)
    reward = reach_reward + np.where(held, 100.0 * height, lift_reward) + np.where(held, place, 0.0)
    return Outcome(reward, aligned & (above_rest <= 0.04), 0.0, 0.0, 0.0, 0.0, 0.0)


def disassemble_v1(s: Inputs) -> Outcome:
    """Reach the wrench, lift it to the goal; away from the peg, only the lift's full reward and the place's count."""
    wrench, height = s.observation[..., 4:7], s["target_height"]
    reach, reach_reward = kernels.approach(s, wrench, 0.04, s.init_tcp[..., 2], 2.0)
    placing = kernels.distance(wrench, s.target)
    held, lift_reward = _lift_v1(wrench[..., 2], s["nut_height"], height, placing, reach, 0.04)
    place = kernels.at_least(kernels.progress(placing, s["max_placing"]), 0.0)
    place_reward = np.where(held & (reach < 0.03), place, 0.0)

    apart = abs(s["nut"][..., :2] - s["peg"][..., :2]) > 0.05
    away = apart[..., 0] | apart[..., 1]
    lift_reward = np.where(held | away, 100.0 * height, lift_reward)
    reward = np.where(away, 0.0, reach_reward) + lift_reward + place_reward
    return Outcome(reward, wrench[..., 2] > s.target[..., 2], 0.0, 0.0, 0.0, 0.0, 0.0)


_PROBES = {
    "grip_point": "site.RoundNut-8.xpos",
    "ring": "site.RoundNut.xpos",
    "nut": "body.RoundNut.xpos",
    "nut_quaternion": "body.RoundNut.xquat",
}

SPECS = (
    TaskSpec(
        name="assembly-v3",
        objects=_wrench,
        reward_v2=assembly_v2,
        reward_v1=assembly_v1,
        probes=_PROBES,
        state=("rest_height",),
    ),
    TaskSpec(
        name="disassemble-v3",
        objects=_wrench,
        reward_v2=disassemble_v2,
        reward_v1=disassemble_v1,
        probes=_PROBES,
        constants={
            "peg": "model.body.peg.pos",
            "nut_height": "objHeight",
            "target_height": "heightTarget",
            "max_placing": "maxPlacingDist",
        },
    ),
)
