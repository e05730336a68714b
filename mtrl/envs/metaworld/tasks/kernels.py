"""Arithmetic shared by the tasks, on arrays with any leading dimensions ``...``, for numpy and torch.

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
    from mtrl.envs.metaworld.tasks.base import Array, Inputs, Namespace

_TINY = 1e-37
"""Keeps 0 / 0 at 0 without a branch; vanishes beside any number over 1e-20, in float64 and float32."""
_GAUSSIAN_SCALE = math.sqrt(-2.0 * math.log(0.1))


@cache
def _constant(xp: Namespace, values: tuple[float, ...], device: Any) -> Array:
    if xp is np:
        return np.array(values, dtype=np.float64)
    return xp.tensor(values, dtype=xp.float64, device=device)


def constant(xp: Namespace, values: tuple[float, ...], like: Array) -> Array:
    """A float64 vector in the namespace and on the device of ``like``; made once."""
    return _constant(xp, values, like.device)


def at_least(xp: Namespace, x: Array, low: float) -> Array:
    """``max(x, low)`` for a number ``low``; keeps the dtype."""
    return np.maximum(x, low) if xp is np else xp.clamp(x, min=low)


def at_most(xp: Namespace, x: Array, high: float) -> Array:
    """``min(x, high)`` for a number ``high``; keeps the dtype."""
    return np.minimum(x, high) if xp is np else xp.clamp(x, max=high)


def indicator(xp: Namespace, condition: Array) -> Array:
    """1.0 where the condition holds, else 0.0, float64 (``float(condition)`` in the package)."""
    return cast(xp, condition, xp.float64)


def cast(xp: Namespace, x: Array, dtype: Any) -> Array:
    """``x``, an array or a Python number, as an array of ``dtype``."""
    return x.astype(dtype) if hasattr(x, "astype") else xp.asarray(x, dtype=dtype)


def norm(xp: Namespace, vector: Array) -> Array:
    """Euclidean length over the last axis: ``(..., k) -> (...)``."""
    return xp.sqrt((np if xp is np else xp.linalg).vecdot(vector, vector))


def distance(xp: Namespace, a: Array, b: Array) -> Array:
    """Euclidean distance over the last axis."""
    return norm(xp, a - b)


def mixed(xp: Namespace, single: Array, function: Callable[..., Array], *arguments: Array) -> Array:
    """``function(*arguments)``, in float32 for the copies marked by ``single (...)``; float64 out.

    Each argument is rounded to float32 before the function sees it, which is what numpy does with a Python float that
    meets a float32 scalar; with float32 arguments and Python constants every operation inside is then float32.
    """
    full = function(*arguments)

    def rounded() -> Array:
        return xp.where(single, function(*(cast(xp, argument, xp.float32) for argument in arguments)), full)

    if hasattr(single, "branch"):
        # The engine records the operations and decides anew at each replay.
        return single.branch(rounded, full)
    return full if xp is np and not single.any() else rounded()


def tolerance(
    xp: Namespace,
    x: Array,
    bounds: tuple[float, float],
    margin: Array | float,
    sigmoid: Literal["long_tail", "gaussian"] = "long_tail",
) -> Array:
    """1 inside the bounds, falling to 0.1 at ``margin`` outside of them (dm_control's ``tolerance``)."""
    lower, upper = bounds
    return _falloff(xp, xp.maximum(lower - x, x - upper), margin, sigmoid)


def within(
    xp: Namespace,
    length: Array,
    radius: float,
    margin: Array | float,
    sigmoid: Literal["long_tail", "gaussian"] = "long_tail",
) -> Array:
    """`tolerance` with the bounds ``(0, radius)`` of a length that is never negative."""
    return _falloff(xp, length - radius, margin, sigmoid)


def _falloff(xp: Namespace, outside: Array, margin: Array | float, sigmoid: str) -> Array:
    # A margin of 0 (only ever by coincidence) means "nothing outside", which the tiny number gives too.
    scaled = at_least(xp, outside, 0.0) / (margin if isinstance(margin, float) else margin + _TINY)
    if sigmoid == "gaussian":
        scaled = scaled * _GAUSSIAN_SCALE
        return xp.exp(-0.5 * (scaled * scaled))
    scaled = scaled * 3.0
    return 1.0 / (scaled * scaled + 1.0)


def hamacher(a: Array, b: Array) -> Array:
    """Hamacher product ``ab / (a + b - ab)``, 0 at ``a = b = 0``."""
    product = a * b
    return product / (a + b - product + _TINY)


def near_bonus(xp: Namespace, length: Array, c1: float = 1000.0, c2: float = 0.01, c3: float = 0.001) -> Array:
    """``c1 (exp(-d²/c2) + exp(-d²/c3))``, the closeness term of the v1 rewards."""
    negative = -(length * length)
    return c1 * (xp.exp(negative / c2) + xp.exp(negative / c3))


def closing_bonus(xp: Namespace, action: Array) -> Array:
    """``max(effort, 0) / 50`` of the v1 rewards, float32 as in the package."""
    return at_least(xp, action[..., 3], 0.0) / 50.0


def lift(
    xp: Namespace, z: Array, rest: Array, height: Array, placing: Array, reach: Array, near: float = 0.1
) -> tuple[Array, Array]:
    """The lifting term of the v1 rewards: ``(held (...), reward (...))``.

    Held: at the target ``height`` less 1 cm and not dropped, that is, lying (``z`` within 5 mm of ``rest``) away from
    the goal (``placing``) and the fingers (``reach``). Held gives ``100 height``; otherwise, off the ground and within
    ``near`` of the fingers, ``100 min(height, z)``; otherwise 0.
    """
    ground = rest + 0.005
    held = (z >= height - 0.01) & ~((z < ground) & (placing > 0.02) & (reach > 0.02))
    partial = xp.where((reach < near) & (z > ground), 100.0 * xp.minimum(height, z), 0.0)
    return held, xp.where(held, 100.0 * height, partial)


def closed_effort(xp: Namespace, action: Array, effort: float = 1.0) -> tuple[Array, Array]:
    """Gripper effort clipped to ``[0, effort]`` over ``effort``, float32; and where the package keeps it float32.

    At 0 and above ``effort`` the package falls back on a Python number, so what follows is float64 there.
    """
    command = action[..., 3]
    closed = at_most(xp, at_least(xp, command, 0.0), effort) / effort
    return closed, (command > 0.0) & (command <= effort)


def xz_caging(xp: Namespace, s: Inputs, obj: Array, threshold: float, initial: Array | None = None) -> Array:
    """How near the gripper is to ``obj (..., 3)`` in x and z; the margin is the distance at the start."""
    start = s.obj_init if initial is None else initial
    margin = norm(xp, start[..., ::2] - s.init_tcp[..., ::2]) - threshold
    return within(xp, norm(xp, s.tcp[..., ::2] - obj[..., ::2]), threshold, margin)


def grip(
    xp: Namespace, s: Inputs, caging: Array, effort: float, high_density: bool, reach: Array | None = None
) -> tuple[Array, Array]:
    """Adds the closing of the gripper to a caging reward: ``(value (...), single (...))``, see `mixed`."""
    closed, single = closed_effort(xp, s.action, effort)
    caged = caging > 0.97
    gripping = xp.where(caged, cast(xp, closed, xp.float64), 0.0)

    def combine(caging: Array, gripping: Array, reach: Array | None = None) -> Array:
        value = hamacher(caging, gripping)
        if high_density:
            value = (value + caging) / 2.0
        return value if reach is None else (value + reach) / 2.0

    extra = () if reach is None else (reach,)
    single = single & caged
    return mixed(xp, single, combine, caging, gripping, *extra), single


def gripper_caging(
    xp: Namespace,
    s: Inputs,
    obj: Array,
    *,
    obj_radius: float,
    pad_success_thresh: float,
    object_reach_radius: float,
    xz_thresh: float,
    desired_gripper_effort: float = 1.0,
    high_density: bool = False,
    medium_density: bool = False,
    initial: Array | None = None,
) -> tuple[Array, Array]:
    """The base class's caging reward of ``obj (..., 3)``: ``(value (...), single (...))``, see `mixed`.

    ``initial`` replaces ``obj_init`` (stick-push measures from the stick).
    """
    start = s.obj_init if initial is None else initial
    pads_y = s.pads[..., 1]
    margin = abs(abs(pads_y - start[..., 1:2]) - pad_success_thresh)
    sides = tolerance(xp, abs(pads_y - obj[..., 1:2]), (obj_radius, pad_success_thresh), margin)
    caging_y = hamacher(sides[..., 0], sides[..., 1])
    caging = hamacher(caging_y, xz_caging(xp, s, obj, xz_thresh, start))
    reach = None
    if medium_density:
        reach_margin = abs(distance(xp, start, s.init_tcp) - object_reach_radius)
        reach = within(xp, distance(xp, obj, s.tcp), object_reach_radius, reach_margin)
    return grip(xp, s, caging, desired_gripper_effort, high_density, reach)


def between_pads(xp: Namespace, s: Inputs, obj: Array, radius: float, *uppers: float) -> tuple[Array, ...]:
    """How well the pads stand on both sides of ``obj`` in y, for each upper bound of the clearance.

    The margins come from ``init_left_pad`` and ``init_right_pad``, which are live: the current pads.
    """
    offset = s.pads[..., 1] - obj[..., 1:2]
    margin = abs(abs(offset) - 0.05)
    clearance = offset * constant(xp, (1.0, -1.0), offset)
    sides = [tolerance(xp, clearance, (radius, upper), margin) for upper in uppers]
    return tuple(hamacher(side[..., 0], side[..., 1]) for side in sides)


def pad_caging(
    xp: Namespace, s: Inputs, obj: Array, *, obj_radius: float, grip_margin: float, xz_margin: float
) -> Array:
    """The caging reward that push-back, soccer, sweep and sweep-into define for themselves.

    Grip bounds are ``(obj_radius, obj_radius + grip_margin)``; the action plays no part, so the result is float64.
    """
    caging_y, gripping_y = between_pads(xp, s, obj, obj_radius, 0.05, obj_radius + grip_margin)
    caging = hamacher(caging_y, xz_caging(xp, s, obj, xz_margin))
    return (caging + xp.where(caging > 0.95, gripping_y, 0.0)) / 2.0


def _quaternion_tables() -> tuple[np.ndarray, np.ndarray]:
    """Linear map from a rotation matrix to its four candidate quaternions (x, y, z, w), not normalised.

    Row i of the symmetric 4x4 result is ``4 q_i q``: Markley's form, of which the row with the largest pivot is used.
    """
    weights = np.zeros((3, 3, 4, 4))
    offset = np.eye(4)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        weights[i, i, i, i] = weights[i, i, 3, 3] = 1.0
        weights[j, j, i, i] = weights[k, k, i, i] = -1.0
        weights[i, j, i, j] = weights[j, i, i, j] = weights[i, j, j, i] = weights[j, i, j, i] = 1.0
        weights[k, j, i, 3] = weights[k, j, 3, i] = 1.0
        weights[j, k, i, 3] = weights[j, k, 3, i] = -1.0
    return weights.reshape(9, 16), offset.reshape(16)


@cache
def _quaternion_constants(xp: Namespace, device: Any) -> tuple[Array, Array]:
    weights, offset = _quaternion_tables()
    if xp is np:
        return weights, offset
    return xp.tensor(weights, device=device), xp.tensor(offset, device=device)


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


def quaternion(xp: Namespace, matrix: Array) -> Array:
    """Row-major rotation matrices ``(..., 9)`` to (x, y, z, w) ``(..., 4)``: ``Rotation.from_matrix(m).as_quat()``.

    The pivot is chosen from the same sums in the same order as in scipy (ties at quarter turns decide the sign); the
    components agree within 1e-15.
    """
    if hasattr(matrix, "call"):
        return matrix.call(_quaternion_of_one, 4)
    weights, offset = _quaternion_constants(xp, matrix.device)
    a, b, c = matrix[..., 0], matrix[..., 4], matrix[..., 8]
    pivot = xp.argmax(xp.stack((a, b, c, a + b + c), -1), -1).reshape(-1)
    candidates = (matrix @ weights + offset).reshape(-1, 4, 4)
    chosen = candidates[xp.arange(candidates.shape[0], device=matrix.device), pivot]
    return (chosen / norm(xp, chosen)[..., None]).reshape(*matrix.shape[:-1], 4)


def progress(xp: Namespace, remaining: Array, longest: Array) -> Array:
    """``1000 (longest - remaining)`` and `near_bonus`: how far something has come, in the v1 rewards."""
    return 1000.0 * (longest - remaining) + near_bonus(xp, remaining)


def reach_then_move(xp: Namespace, reach: Array, remaining: Array, longest: Array) -> Array:
    """The v1 reward of a part to be moved: ``-reach`` and, within 5 cm of it, its `progress`, never negative."""
    moved = at_least(xp, progress(xp, remaining, longest), 0.0)
    return -reach + xp.where(reach < 0.05, moved, 0.0)


def grasped_and_raised(s: Inputs, obj: Array) -> Array:
    """The pads press on the object, 2 cm above its start; for tasks with the probe ``touching``."""
    return (s["touching"] > 0) & (s.observation[..., 3] > 0) & (obj[..., 2] - 0.02 > s.obj_init[..., 2])


def approach(xp: Namespace, s: Inputs, obj: Array, near: float, start: Array, weight: float) -> tuple[Array, Array]:
    """The v1 rewards' way to ``obj (..., 3)``: its distance to the fingers, and the reward for coming closer.

    Farther than ``near`` in the plane, leaving the height ``start (...)`` costs ``weight`` times the difference; within
    ``near`` in space, closing the gripper pays.
    """
    reach = distance(xp, obj, s.tcp)
    planar = distance(xp, obj[..., :2], s.tcp[..., :2])
    reward = xp.where(planar < near, -reach, -planar - weight * abs(s.tcp[..., 2] - start))
    return reach, xp.where(reach < near, -reach + closing_bonus(xp, s.action), reward)


def carry(xp: Namespace, single: Array, grasped: Array, in_place: Array, lifted: Array, weight: float) -> Array:
    """Grasp and closeness to the goal together, and ``1 + weight in_place`` more where the object is lifted."""

    def combine(grasped: Array, in_place: Array, bonus: Array) -> Array:
        reward = hamacher(grasped, in_place)
        return xp.where(lifted, reward + bonus, reward)

    return mixed(xp, single, combine, grasped, in_place, 1.0 + weight * in_place)


def grab_effort(xp: Namespace, action: Array) -> Array:
    """The gripper's command from 0 (open) to 1 (closed): computed in float32, float64 out."""
    command = at_most(xp, at_least(xp, action[..., 3], -1.0), 1.0)
    return cast(xp, (command + 1.0) / 2.0, xp.float64)


def above_floor(xp: Namespace, hand: Array, handle: Array, radius: float) -> Array:
    """1 where the hand is above a funnel around the handle, which keeps it from running into it; less below.

    The funnel's floor is 0 within ``radius`` of the handle in the plane and rises with the logarithm outside.
    """
    outside = distance(xp, hand[..., :2], handle[..., :2]) - radius
    floor = xp.where(outside > 0.0, 0.04 * xp.log(at_least(xp, outside, _TINY)) + 0.4, 0.0)
    return within(xp, floor - hand[..., 2], 0.01, floor / 2.0)
