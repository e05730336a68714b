"""Functions that the rewards of many tasks share.

The order of sums and products is part of the definition, since it decides the last bit of a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy import float32

from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

TINY = 1e-37
"""Added to a divisor, it turns 0 / 0 into 0 without a branch. It changes no number over 1e-20, in either precision."""
_GAUSSIAN_SCALE = math.sqrt(-2.0 * math.log(0.1))

# Vectors


def plus(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def length(x: float, y: float, z: float) -> float:
    return math.sqrt(x * x + y * y + z * z)


def distance(a: Vector, b: Vector) -> float:
    x, y, z = a[0] - b[0], a[1] - b[1], a[2] - b[2]
    return math.sqrt(x * x + y * y + z * z)


def scaled_distance(a: Vector, b: Vector, scale: Vector) -> float:
    """The length of the difference after multiplying each coordinate by its ``scale``."""
    return length((a[0] - b[0]) * scale[0], (a[1] - b[1]) * scale[1], (a[2] - b[2]) * scale[2])


def along(axis: int, a: Vector, b: Vector) -> float:
    """The distance along one axis."""
    return abs(a[axis] - b[axis])


def distance_xy(a: Vector, b: Vector) -> float:
    x, y = a[0] - b[0], a[1] - b[1]
    return math.sqrt(x * x + y * y)


def distance_xz(a: Vector, b: Vector) -> float:
    x, z = a[0] - b[0], a[2] - b[2]
    return math.sqrt(x * x + z * z)


def quaternion_distance(a: Vector, b: Vector) -> float:
    """The Euclidean distance between two quaternions as vectors of four numbers."""
    x, y, z, w = a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]
    return math.sqrt(x * x + y * y + z * z + w * w)


# Meta-World's reward functions


def clip(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def within(size: float, radius: float, margin: float, sigmoid: str = "long_tail") -> float:
    """1 for a ``size`` of at most ``radius``, falling to 0.1 at ``radius + margin`` (dm_control's ``tolerance``)."""
    outside = size - radius
    # With a margin of 0, a rare coincidence, Meta-World returns 0 outside the radius. TINY makes the result negligible.
    scaled = (0.0 if outside < 0.0 else outside) / (margin + TINY)
    if sigmoid == "gaussian":
        scaled = scaled * _GAUSSIAN_SCALE
        return math.exp(-0.5 * (scaled * scaled))
    scaled = scaled * 3.0
    return 1.0 / (scaled * scaled + 1.0)


def tolerance(x: float, lower: float, upper: float, margin: float) -> float:
    """`within` for the distance of ``x`` from the interval ``[lower, upper]``."""
    return within(max(lower - x, x - upper), 0.0, margin)


def hamacher(a: Any, b: Any) -> Any:
    """Hamacher product ``ab / (a + b - ab)``, 0 at ``a = b = 0``, in either precision."""
    product = a * b
    return product / (a + b - product + TINY)


# Single precision


def mixed(single: bool, function: Callable[..., Any], *arguments: float) -> float:
    """``function(*arguments)``, computed in float32 if ``single``.

    Each argument is rounded before the function sees it, as numpy does with a Python float that meets a float32.
    """
    if single:
        return float(function(*(float32(argument) for argument in arguments)))
    return function(*arguments)


def closed_effort(s: State, effort: float = 1.0) -> tuple[float, bool]:
    """The gripper's command, clipped to ``[0, effort]`` and divided by ``effort``; and whether Meta-World's is float32.

    For a command of at most 0 or above ``effort``, Meta-World takes a Python number, and continues in double precision.
    """
    limit = float32(effort)
    closed = min(max(s.command, 0.0), limit) / limit
    return float(closed), s.command > 0.0 and s.command <= limit


def closing_bonus(s: State) -> float:
    """The term ``max(command, 0) / 50`` of the v1 rewards."""
    return float(max(s.command, 0.0) / 50.0)


def grab_effort(s: State) -> float:
    """The gripper's command from 0 (open) to 1 (closed)."""
    return float((min(max(s.command, -1.0), 1.0) + 1.0) / 2.0)


def _ten_hamacher(a: Any, b: Any) -> Any:
    return hamacher(a, b) * 10.0


def closed_and_near(s: State, near: float, in_place: float) -> tuple[float, float]:
    """The reward for a closed gripper near an object; and ten times its Hamacher product with ``in_place``."""
    closed, single = closed_effort(s)
    reach = mixed(single, hamacher, near, closed)
    return reach, mixed(single, _ten_hamacher, reach, in_place)


# Caging: how well the fingers enclose an object


def xz_caging(s: State, obj: Vector, threshold: float, start: Vector) -> float:
    """How near the gripper is to the object in x and z, relative to its distance at the start of the episode."""
    margin = distance_xz(start, s.init_tcp) - threshold
    return within(distance_xz(s.tcp, obj), threshold, margin)


def _beside(pad: Vector, obj: Vector, start: Vector, radius: float, threshold: float) -> float:
    return tolerance(abs(pad[1] - obj[1]), radius, threshold, abs(abs(pad[1] - start[1]) - threshold))


def _dense(caging: Any, gripping: Any) -> Any:
    return (hamacher(caging, gripping) + caging) / 2.0


def _medium(caging: Any, gripping: Any, reach: Any) -> Any:
    return (hamacher(caging, gripping) + reach) / 2.0


def _gripping(s: State, caging: float, effort: float) -> tuple[float, bool]:
    """The gripper's closing, which counts only if the object is caged; and whether it is float32."""
    if caging > 0.97:
        return closed_effort(s, effort)
    return 0.0, False


def grip(s: State, caging: float, effort: float = 1.0) -> tuple[float, bool]:
    """The reward for caging and closing the gripper (``high_density``); and whether it is float32 in Meta-World."""
    gripping, single = _gripping(s, caging, effort)
    return mixed(single, _dense, caging, gripping), single


def gripper_caging(
    s: State,
    obj: Vector,
    obj_radius: float,
    pad_success_thresh: float,
    xz_thresh: float,
    effort: float = 1.0,
    high_density: bool = True,
    reach_radius: float | None = None,
    initial: Vector | None = None,
) -> tuple[float, bool]:
    """Meta-World's ``_gripper_caging_reward``; and whether it is float32 there, see `mixed`.

    Unlike there, ``high_density`` is the default. With ``reach_radius`` (Meta-World's ``object_reach_radius`` with
    ``medium_density``), half of the reward is for fingers near the object. ``initial`` replaces ``obj_init``
    (stick-push measures from the stick).
    """
    start = s.obj_init if initial is None else initial
    left = _beside(s.left_pad, obj, start, obj_radius, pad_success_thresh)
    right = _beside(s.right_pad, obj, start, obj_radius, pad_success_thresh)
    caging = hamacher(hamacher(left, right), xz_caging(s, obj, xz_thresh, start))
    if reach_radius is None and high_density:
        return grip(s, caging, effort)
    gripping, single = _gripping(s, caging, effort)
    if reach_radius is None:
        return mixed(single, hamacher, caging, gripping), single
    margin = abs(distance(start, s.init_tcp) - reach_radius)
    reach = within(distance(obj, s.tcp), reach_radius, margin)
    return mixed(single, _medium, caging, gripping, reach), single


def between_pads(s: State, obj: Vector, radius: float, upper: float) -> float:
    """How well the pads enclose the object in y.

    The margins use the current pads, since Meta-World's ``init_left_pad`` and ``init_right_pad`` are views of them.
    """
    left, right = s.left_pad[1] - obj[1], s.right_pad[1] - obj[1]
    one = tolerance(left, radius, upper, abs(abs(left) - 0.05))
    return hamacher(one, tolerance(-right, radius, upper, abs(abs(right) - 0.05)))


def pad_caging(s: State, obj: Vector, obj_radius: float, grip_margin: float, xz_margin: float) -> float:
    """The caging reward that push-back, soccer, sweep and sweep-into define for themselves.

    A pad grips fully at ``obj_radius`` to ``+ grip_margin`` in y. It does not use the action, so it is always double.
    """
    caging = hamacher(between_pads(s, obj, obj_radius, 0.05), xz_caging(s, obj, xz_margin, s.obj_init))
    gripping = between_pads(s, obj, obj_radius, obj_radius + grip_margin) if caging > 0.95 else 0.0
    return (caging + gripping) / 2.0


# v2 rewards for carrying an object to the goal


def carried(s: State) -> tuple[Vector, float, float, float, float]:
    """The quantities that these rewards use: the object, the gripper's opening, the object's distances to the goal and
    to the fingers, and its closeness to the goal."""
    obj = s.observation[4:7]
    to_target = distance(obj, s.target)
    in_place = within(to_target, 0.05, distance(s.obj_init, s.target))
    return obj, s.observation[3], to_target, distance(obj, s.tcp), in_place


def _hamacher_plus(a: Any, b: Any, bonus: Any) -> Any:
    return hamacher(a, b) + bonus


def carry(single: bool, grasped: float, in_place: float, lifted: bool, bonus: float) -> float:
    """The Hamacher product of grasp and closeness to the goal, and a bonus if the object is lifted."""
    if lifted:
        return mixed(single, _hamacher_plus, grasped, in_place, bonus)
    return mixed(single, hamacher, grasped, in_place)


def grasped_and_raised(s: State, obj: Vector) -> bool:
    """Whether the pads, open, press on an object that is over 2 cm above its start. Needs the probe ``touching``."""
    return s.touching > 0 and s.observation[3] > 0 and obj[2] - 0.02 > s.obj_init[2]


def graded(
    s: State, reward: float, to_target: float, to_obj: float, radius: float, grasped: float, in_place: float
) -> Outcome:
    """The outcome of a reward for carrying: 10 within 5 cm of the goal, success within ``radius``."""
    return Outcome(
        reward=10.0 if to_target < 0.05 else reward,
        success=to_target <= radius,
        near_object=to_obj <= 0.03,
        grasp_success=grasped_and_raised(s, s.observation[4:7]),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )


def above_floor(hand: Vector, handle: Vector, radius: float) -> float:
    """1 for a hand above a funnel around the handle, or up to 1 cm below it; less further below.

    This keeps the hand from running into the handle. The funnel's floor is at 0 within a planar distance of ``radius``
    from the handle. Outside it rises logarithmically.
    """
    outside = distance_xy(hand, handle) - radius
    floor = 0.04 * math.log(max(outside, TINY)) + 0.4 if outside > 0.0 else 0.0
    return within(floor - hand[2], 0.01, floor / 2.0)


# v1


def near_bonus(size: float, c1: float = 1000.0, c2: float = 0.01, c3: float = 0.001) -> float:
    """The closeness term of the v1 rewards, ``c1 (exp(-d²/c2) + exp(-d²/c3))`` for a distance d of ``size``."""
    negative = -(size * size)
    return c1 * (math.exp(negative / c2) + math.exp(negative / c3))


def progress(remaining: float, longest: float) -> float:
    """How far something has come: ``1000 (longest - remaining)`` plus `near_bonus`."""
    return 1000.0 * (longest - remaining) + near_bonus(remaining)


def reach_then_move(reach: float, remaining: float, longest: float) -> float:
    """``-reach`` plus, within 5 cm of the object, the object's `progress` if that is positive."""
    moved = max(progress(remaining, longest), 0.0) if reach < 0.05 else 0.0
    return -reach + moved


def approach(
    s: State, obj: Vector, start: float, weight: float, near_xy: float = 0.05, near: float = 0.05
) -> tuple[float, float]:
    """The object's distance to the fingers, and the reward for approaching it.

    The reward is minus the distance, plus `closing_bonus` within ``near``. Beyond a planar distance of ``near_xy``, it
    is minus the planar distance, minus ``weight`` times the difference between the fingers' height and ``start``.
    """
    reach = distance(obj, s.tcp)
    if reach < near:
        return reach, -reach + closing_bonus(s)
    planar = distance_xy(obj, s.tcp)
    return reach, -reach if planar < near_xy else -planar - weight * abs(s.tcp[2] - start)


def lift(z: float, rest: float, height: float, placing: float, reach: float) -> tuple[bool, float]:
    """The lifting term: whether the object is held, and the reward.

    The object is held if it is at the target ``height`` (less 1 cm) and not dropped. It is dropped if it lies on the
    ground (``z`` less than 5 mm above ``rest``), more than 2 cm from the goal (``placing``) and from the fingers
    (``reach``). A held object gives ``100 height``. Otherwise, an object off the ground and within 10 cm of the fingers
    gives ``100 min(height, z)``.
    """
    ground = rest + 0.005
    dropped = z < ground and placing > 0.02 and reach > 0.02
    if z >= height - 0.01 and not dropped:
        return True, 100.0 * height
    return False, 100.0 * min(height, z) if reach < 0.1 and z > ground else 0.0


def place(held: bool, reach: float, remaining: float, longest: float) -> float:
    """The `progress`, if positive, of an object that is held within 10 cm of the fingers; otherwise 0."""
    return max(progress(remaining, longest), 0.0) if held and reach < 0.1 else 0.0


def outcome_v1(reward: float, remaining: float, radius: float, grasp_success: float = 0.0) -> Outcome:
    """The outcome of most v1 rewards, with success within ``radius``.

    Of the other terms, only the distance varies: for these tasks, Meta-World always reports a gripper near the object
    and, for most of them, no grasp.
    """
    return Outcome(reward, remaining <= radius, 1.0, grasp_success, 0.0, 0.0, remaining)


def move_v1(
    apart: Callable[[Vector, Vector], float], radius: float, s: State, grasp_success: float = 0.0, left: bool = False
) -> Outcome:
    """Reach the object with the middle of the fingers, or with the left finger, and then move it to the goal.

    ``apart`` measures the object's distance to the goal.
    """
    obj = s.observation[4:7]
    remaining = apart(obj, s.target)
    reward = reach_then_move(distance(obj, s.left_tip if left else s.tcp), remaining, s.longest)
    return outcome_v1(reward, remaining, radius, grasp_success)
