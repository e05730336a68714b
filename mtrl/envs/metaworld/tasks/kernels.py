"""Arithmetic shared by the tasks, on arrays with any leading dimensions ``...``.

The engine calls these for few copies at a time, where the number of array operations is what costs; hence the fused
forms. Results equal the package's scalar functions up to the last bit or two (order of additions, see each function).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from mtrl.envs.metaworld.tasks.base import Array, Inputs

_TINY = 1e-37
"""Keeps 0 / 0 at 0 without a branch; vanishes beside any number over 1e-20, in float64 and float32."""
_GAUSSIAN_SCALE = math.sqrt(-2.0 * math.log(0.1))


@cache
def constant(values: tuple[float, ...]) -> Array:
    """A float64 vector; made once."""
    return np.array(values, dtype=np.float64)


def at_least(x: Array, low: float) -> Array:
    """``max(x, low)`` for a number ``low``; keeps the dtype."""
    return np.maximum(x, low)


def at_most(x: Array, high: float) -> Array:
    """``min(x, high)`` for a number ``high``; keeps the dtype."""
    return np.minimum(x, high)


def indicator(condition: Array) -> Array:
    """1.0 where the condition holds, else 0.0, float64 (``float(condition)`` in the package)."""
    return cast(condition, np.float64)


def cast(x: Array, dtype: Any) -> Array:
    """``x``, an array or a Python number, as an array of ``dtype``."""
    return x.astype(dtype) if hasattr(x, "astype") else np.asarray(x, dtype=dtype)


def norm(vector: Array) -> Array:
    """Euclidean length over the last axis: ``(..., k) -> (...)``."""
    return np.sqrt(np.vecdot(vector, vector))


def distance(a: Array, b: Array) -> Array:
    """Euclidean distance over the last axis."""
    return norm(a - b)


def mixed(single: Array, function: Callable[..., Array], *arguments: Array) -> Array:
    """``function(*arguments)``, in float32 for the copies marked by ``single (...)``; float64 out.

    Each argument is rounded to float32 before the function sees it, which is what numpy does with a Python float that
    meets a float32 scalar; with float32 arguments and Python constants every operation inside is then float32.
    """
    full = function(*arguments)

    def rounded() -> Array:
        return np.where(single, function(*(cast(argument, np.float32) for argument in arguments)), full)

    if hasattr(single, "branch"):
        # The engine records the operations and decides anew at each replay.
        return single.branch(rounded, full)
    return rounded() if single.any() else full


def tolerance(
    x: Array,
    bounds: tuple[float, float],
    margin: Array | float,
    sigmoid: Literal["long_tail", "gaussian"] = "long_tail",
) -> Array:
    """1 inside the bounds, falling to 0.1 at ``margin`` outside of them (dm_control's ``tolerance``)."""
    lower, upper = bounds
    return _falloff(np.maximum(lower - x, x - upper), margin, sigmoid)


def within(
    length: Array, radius: float, margin: Array | float, sigmoid: Literal["long_tail", "gaussian"] = "long_tail"
) -> Array:
    """`tolerance` with the bounds ``(0, radius)`` of a length that is never negative."""
    return _falloff(length - radius, margin, sigmoid)


def _falloff(outside: Array, margin: Array | float, sigmoid: str) -> Array:
    # A margin of 0 (only ever by coincidence) means "nothing outside", which the tiny number gives too.
    scaled = at_least(outside, 0.0) / (margin if isinstance(margin, float) else margin + _TINY)
    if sigmoid == "gaussian":
        scaled = scaled * _GAUSSIAN_SCALE
        return np.exp(-0.5 * (scaled * scaled))
    scaled = scaled * 3.0
    return 1.0 / (scaled * scaled + 1.0)


def hamacher(a: Array, b: Array) -> Array:
    """Hamacher product ``ab / (a + b - ab)``, 0 at ``a = b = 0``."""
    product = a * b
    return product / (a + b - product + _TINY)


def near_bonus(length: Array, c1: float = 1000.0, c2: float = 0.01, c3: float = 0.001) -> Array:
    """``c1 (exp(-d²/c2) + exp(-d²/c3))``, the closeness term of the v1 rewards."""
    negative = -(length * length)
    return c1 * (np.exp(negative / c2) + np.exp(negative / c3))


def closing_bonus(action: Array) -> Array:
    """``max(effort, 0) / 50`` of the v1 rewards, float32 as in the package."""
    return at_least(action[..., 3], 0.0) / 50.0


def lift(z: Array, rest: Array, height: Array, placing: Array, reach: Array, near: float = 0.1) -> tuple[Array, Array]:
    """The lifting term of the v1 rewards: ``(held (...), reward (...))``.

    Held: at the target ``height`` less 1 cm and not dropped, that is, lying (``z`` within 5 mm of ``rest``) away from
    the goal (``placing``) and the fingers (``reach``). Held gives ``100 height``; otherwise, off the ground and within
    ``near`` of the fingers, ``100 min(height, z)``; otherwise 0.
    """
    ground = rest + 0.005
    held = (z >= height - 0.01) & ~((z < ground) & (placing > 0.02) & (reach > 0.02))
    partial = np.where((reach < near) & (z > ground), 100.0 * np.minimum(height, z), 0.0)
    return held, np.where(held, 100.0 * height, partial)


def closed_effort(action: Array, effort: float = 1.0) -> tuple[Array, Array]:
    """Gripper effort clipped to ``[0, effort]`` over ``effort``, float32; and where the package keeps it float32.

    At 0 and above ``effort`` the package falls back on a Python number, so what follows is float64 there.
    """
    command = action[..., 3]
    closed = at_most(at_least(command, 0.0), effort) / effort
    return closed, (command > 0.0) & (command <= effort)


def xz_caging(s: Inputs, obj: Array, threshold: float, initial: Array | None = None) -> Array:
    """How near the gripper is to ``obj (..., 3)`` in x and z; the margin is the distance at the start."""
    start = s.obj_init if initial is None else initial
    margin = norm(start[..., ::2] - s.init_tcp[..., ::2]) - threshold
    return within(norm(s.tcp[..., ::2] - obj[..., ::2]), threshold, margin)


def grip(
    s: Inputs, caging: Array, effort: float, high_density: bool, reach: Array | None = None
) -> tuple[Array, Array]:
    """Adds the closing of the gripper to a caging reward: ``(value (...), single (...))``, see `mixed`."""
    closed, single = closed_effort(s.action, effort)
    caged = caging > 0.97
    gripping = np.where(caged, cast(closed, np.float64), 0.0)

    def combine(caging: Array, gripping: Array, reach: Array | None = None) -> Array:
        value = hamacher(caging, gripping)
        if high_density:
            value = (value + caging) / 2.0
        return value if reach is None else (value + reach) / 2.0

    extra = () if reach is None else (reach,)
    single = single & caged
    return mixed(single, combine, caging, gripping, *extra), single


def gripper_caging(
    s: Inputs,
    obj: Array,
    *,
    obj_radius: float,
    pad_success_thresh: float,
    xz_thresh: float,
    desired_gripper_effort: float = 1.0,
    high_density: bool = False,
    reach_radius: float | None = None,
    initial: Array | None = None,
) -> tuple[Array, Array]:
    """The base class's caging reward of ``obj (..., 3)``: ``(value (...), single (...))``, see `mixed`.

    ``initial`` replaces ``obj_init`` (stick-push measures from the stick). With ``reach_radius``, the package's
    ``object_reach_radius`` under its ``medium_density``, half of the reward is closeness of the fingers to the object.
    """
    start = s.obj_init if initial is None else initial
    pads_y = s.pads[..., 1]
    margin = abs(abs(pads_y - start[..., 1:2]) - pad_success_thresh)
    sides = tolerance(abs(pads_y - obj[..., 1:2]), (obj_radius, pad_success_thresh), margin)
    caging_y = hamacher(sides[..., 0], sides[..., 1])
    caging = hamacher(caging_y, xz_caging(s, obj, xz_thresh, start))
    reach = None
    if reach_radius is not None:
        margin = abs(distance(start, s.init_tcp) - reach_radius)
        reach = within(distance(obj, s.tcp), reach_radius, margin)
    return grip(s, caging, desired_gripper_effort, high_density, reach)


def between_pads(s: Inputs, obj: Array, radius: float, *uppers: float) -> tuple[Array, ...]:
    """How well the pads stand on both sides of ``obj`` in y, for each upper bound of the clearance.

    The margins come from ``init_left_pad`` and ``init_right_pad``, which are live: the current pads.
    """
    offset = s.pads[..., 1] - obj[..., 1:2]
    margin = abs(abs(offset) - 0.05)
    clearance = offset * constant((1.0, -1.0))
    sides = [tolerance(clearance, (radius, upper), margin) for upper in uppers]
    return tuple(hamacher(side[..., 0], side[..., 1]) for side in sides)


def pad_caging(s: Inputs, obj: Array, *, obj_radius: float, grip_margin: float, xz_margin: float) -> Array:
    """The caging reward that push-back, soccer, sweep and sweep-into define for themselves.

    Grip bounds are ``(obj_radius, obj_radius + grip_margin)``; the action plays no part, so the result is float64.
    """
    caging_y, gripping_y = between_pads(s, obj, obj_radius, 0.05, obj_radius + grip_margin)
    caging = hamacher(caging_y, xz_caging(s, obj, xz_margin))
    return (caging + np.where(caging > 0.95, gripping_y, 0.0)) / 2.0


def _quaternion_of_one(
    a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float, i: float
) -> tuple[float, float, float, float]:
    """`quaternion` of one matrix, its rows ``a b c``, ``d e f``, ``g h i``."""
    trace = a + e + i
    if a >= e and a >= i and a >= trace:
        x, y, z, w = 1.0 + a - e - i, d + b, g + c, h - f
    elif e >= i and e >= trace:
        x, y, z, w = d + b, 1.0 + e - i - a, h + f, c - g
    elif i >= trace:
        x, y, z, w = g + c, h + f, 1.0 + i - a - e, d - b
    else:
        x, y, z, w = h - f, c - g, d - b, 1.0 + trace
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def quaternion(matrix: Array) -> Array:
    """Row-major rotation matrices ``(..., 9)`` to (x, y, z, w) ``(..., 4)``: ``Rotation.from_matrix(m).as_quat()``.

    The pivot is chosen from the same sums in the same order as in scipy (ties at quarter turns decide the sign); the
    components agree within 1e-15.
    """
    if hasattr(matrix, "call"):
        return matrix.call(_quaternion_of_one, 4)
    return np.apply_along_axis(lambda one: _quaternion_of_one(*one), -1, matrix)


def progress(remaining: Array, longest: Array) -> Array:
    """``1000 (longest - remaining)`` and `near_bonus`: how far something has come, in the v1 rewards."""
    return 1000.0 * (longest - remaining) + near_bonus(remaining)


def reach_then_move(reach: Array, remaining: Array, longest: Array) -> Array:
    """The v1 reward of a part to be moved: ``-reach`` and, within 5 cm of it, its `progress`, never negative."""
    moved = at_least(progress(remaining, longest), 0.0)
    return -reach + np.where(reach < 0.05, moved, 0.0)


def grasped_and_raised(s: Inputs, obj: Array) -> Array:
    """The pads press on the object, 2 cm above its start; for tasks with the probe ``touching``."""
    return (s["touching"] > 0) & (s.observation[..., 3] > 0) & (obj[..., 2] - 0.02 > s.obj_init[..., 2])


def approach(s: Inputs, obj: Array, near: float, start: Array, weight: float) -> tuple[Array, Array]:
    """The v1 rewards' way to ``obj (..., 3)``: its distance to the fingers, and the reward for coming closer.

    Farther than ``near`` in the plane, leaving the height ``start (...)`` costs ``weight`` times the difference; within
    ``near`` in space, closing the gripper pays.
    """
    reach = distance(obj, s.tcp)
    planar = distance(obj[..., :2], s.tcp[..., :2])
    reward = np.where(planar < near, -reach, -planar - weight * abs(s.tcp[..., 2] - start))
    return reach, np.where(reach < near, -reach + closing_bonus(s.action), reward)


def carry(single: Array, grasped: Array, in_place: Array, lifted: Array, weight: float) -> Array:
    """Grasp and closeness to the goal together, and ``1 + weight in_place`` more where the object is lifted."""

    def combine(grasped: Array, in_place: Array, bonus: Array) -> Array:
        reward = hamacher(grasped, in_place)
        return np.where(lifted, reward + bonus, reward)

    return mixed(single, combine, grasped, in_place, 1.0 + weight * in_place)


def grab_effort(action: Array) -> Array:
    """The gripper's command from 0 (open) to 1 (closed): computed in float32, float64 out."""
    command = at_most(at_least(action[..., 3], -1.0), 1.0)
    return cast((command + 1.0) / 2.0, np.float64)


def above_floor(hand: Array, handle: Array, radius: float) -> Array:
    """1 where the hand is above a funnel around the handle, which keeps it from running into it; less below.

    The funnel's floor is 0 within ``radius`` of the handle in the plane and rises with the logarithm outside.
    """
    outside = distance(hand[..., :2], handle[..., :2]) - radius
    floor = np.where(outside > 0.0, 0.04 * np.log(at_least(outside, _TINY)) + 0.4, 0.0)
    return within(floor - hand[..., 2], 0.01, floor / 2.0)
