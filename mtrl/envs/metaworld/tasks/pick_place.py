"""Picking the puck up and placing it: pick-place-v3 and, over a wall, pick-place-wall-v3."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import Array, Inputs, Outcome, TaskSpec, graded

PUCK: Mapping[str, str] = MappingProxyType(
    {"obj": "body.obj.xpos", "obj_matrix": "geom.objGeom.xmat", "touching": "touching.objGeom"}
)
"""Probes of `puck` where the package reports the body's position."""
PUCK_GEOM: Mapping[str, str] = MappingProxyType({**PUCK, "obj": "geom.objGeom.xpos"})
"""Probes of `puck` where it reports the geometry's position."""
PLACING: Mapping[str, str] = MappingProxyType(
    {"target_height": "heightTarget", "obj_height": "objHeight", "max_placing": "maxPlacingDist"}
)
"""Constants of `pick_place_v1`."""


def puck(s: Inputs) -> tuple[Array, ...]:
    """Position and orientation of the puck; the orientation is always its geometry's."""
    return s["obj"], kernels.quaternion(s["obj_matrix"])


def _pinch(s: Inputs, obj: Array) -> tuple[Array, Array]:
    (caging_y,) = kernels.between_pads(s, obj, 0.015, 0.05)
    caging = kernels.hamacher(caging_y, kernels.xz_caging(s, obj, 0.005))
    return kernels.grip(s, caging, 1.0, high_density=True)


def pick_place_v2(s: Inputs) -> Outcome:
    """Grasp and closeness together, a bonus for lifting, 10 at the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = _pinch(s, obj)
    lifted = (to_obj < 0.02) & (opened > 0) & (obj[..., 2] - 0.01 > s.obj_init[..., 2])
    reward = kernels.carry(single, grasped, in_place, lifted, 5.0)
    return graded(s, obj, reward, to_target, 0.07, grasped, in_place)


def pick_place_wall_v2(s: Inputs) -> Outcome:
    """As `pick_place_v2`, first towards a point above the wall and from there to the goal."""
    obj, opened = s.observation[..., 4:7], s.observation[..., 3]
    to_target = kernels.distance(obj, s.target)
    to_obj = kernels.distance(obj, s.tcp)
    above_wall = np.where(kernels.constant((1.0, 0.0, 0.0)) > 0, s.target, kernels.constant((0.0, 0.77, 0.25)))
    scale = kernels.constant((1.0, 1.0, 3.0))
    wall_margin = kernels.norm((s.obj_init - above_wall) * scale)
    over_wall = kernels.within(kernels.norm((obj - above_wall) * scale), 0.05, wall_margin)
    in_place = kernels.within(to_target, 0.05, kernels.distance(s.obj_init, s.target))
    grasped, single = kernels.gripper_caging(s, obj, obj_radius=0.015, pad_success_thresh=0.05, xz_thresh=0.005)
    lifted = (to_obj < 0.02) & (opened > 0) & (obj[..., 2] - 0.015 > s.obj_init[..., 2])

    def tail(grasped: Array, over_wall: Array, rising: Array, placing: Array) -> Array:
        reward = kernels.hamacher(grasped, over_wall)
        bonus = np.where(obj[..., 1] > 0.75, reward + 1.0 + 4.0 + placing, reward + 1.0 + rising)
        return np.where(lifted, bonus, reward)

    reward = kernels.mixed(single, tail, grasped, over_wall, 4.0 * over_wall, 3.0 * in_place)
    return graded(s, obj, reward, to_target, 0.07, grasped, in_place)


def reach_from_above(s: Inputs, obj: Array, reach: Array, radius: float = 0.05, slope: float = 2.0) -> Array:
    """The reaching term of the v1 rewards: come down, and close the fingers, only near the object in x and y."""
    reach_xy = kernels.distance(obj[..., :2], s.tcp[..., :2])
    above = abs(s.tcp[..., 2] - s.init_tcp[..., 2])
    reward = np.where(reach_xy < radius, -reach, -reach_xy - slope * above)
    return np.where(reach < 0.05, -reach + kernels.closing_bonus(s.action), reward)


def pick_place_v1(s: Inputs, goal_radius: float = 0.07, ground: Array | float = 0.0) -> Outcome:
    """Reach, lift to the target height, then carry; the reported gripper opening is 0, so no grasp counts.

    Heights are rewarded as measured from ``ground (...)``.
    """
    obj = s.observation[..., 4:7]
    reach = kernels.distance(obj, s.tcp)
    placing = kernels.distance(obj, s.target)
    held, lift_reward = kernels.lift(
        obj[..., 2] - ground, s["obj_height"] - ground, s["target_height"] - ground, placing, reach
    )
    place = kernels.at_least(kernels.progress(placing, s["max_placing"]), 0.0)
    place_reward = np.where(held & (reach < 0.1), place, 0.0)
    reward = reach_from_above(s, obj, reach) + lift_reward + place_reward
    return Outcome(reward, placing <= goal_radius, 1.0, 0.0, 0.0, 0.0, placing)


SPECS = (
    TaskSpec("pick-place-v3", puck, pick_place_v2, pick_place_v1, probes=PUCK, constants=PLACING),
    TaskSpec("pick-place-wall-v3", puck, pick_place_wall_v2, pick_place_v1, probes=PUCK_GEOM, constants=PLACING),
)
