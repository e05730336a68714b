"""How a Meta-World task is defined for the batched engine, and how to write one.

The physics stays in a simulator; a task is plain arithmetic on the numbers of one copy, a `State`. The engine gathers
*probes* after ``mj_forward``, reads *constants* once after a reset, and calls `evaluate`, either compiled to C or as
Python (`mtrl.envs.metaworld.compiler` lists what such functions may use). Formulas and constants are those of
Meta-World (MIT, see NOTICE), so that each function can be read beside Meta-World's own.

How to add a task, in the file of its family:

1. ``objects(s)`` returns the position and quaternion of one object, or of two, in Meta-World's order: 7 or 14 numbers.
   For one object there are `posed`, `posed_by_matrix` and `placed`; `quaternion` turns a probe ``*.xmat`` into
   scipy's quaternion. In rewards, ``s.observation[4:7]`` is the first position in ``_get_pos_objects()``, and
   ``s.observation[:3]`` is the hand CLIPPED to the observation space (``s.hand`` is not).
2. ``reward_v2(s)`` and ``reward_v1(s)`` return an `Outcome`, which also contains what Meta-World's ``evaluate_state``
   computes. In v1, Meta-World often passes zeros to ``evaluate_state``; compute success, grasp_success and the rest
   from the same zeros.
3. ``TaskSpec(name, objects, reward_v2, reward_v1, probes, constants, state)`` is added to the module's ``SPECS``, and
   the module to ``_FAMILIES`` in ``tasks/__init__.py``. A task reads the following as attributes of the state:

   - ``probes``: {our name: simulator quantity}, read after every step. ``body.<n>.xpos|xquat|xmat``,
     ``geom.<n>.xpos|xmat`` and ``site.<n>.xpos|xmat`` are vectors of 3, 4 or 9; ``joint.<n>.qpos`` (hinge or slide) and
     ``touching.<geom>`` (1.0 if both finger pads press on it: compare ``> 0``) are numbers.
   - ``constants``: {our name: attribute of Meta-World's environment}, a number or a vector, copied after each reset;
     ``model.body.<n>.pos`` and the like read the compiled model instead.
   - ``state``: names of numbers that are kept from step to step. They are NaN after a reset, and the task assigns them.

   A name must have the same type in all tasks.

Pitfalls:

- Live views. Meta-World keeps ``init_left_pad`` and ``init_right_pad`` as views of the simulator: they ARE the current
  pads. ``_target_pos`` is live in basketball and bin-picking, ``obj_init_pos`` in door-lock and door-unlock: override
  the constant with a probe of the same name (``probes={"target": "site.goal.xpos"}``). The parity tests fail for a
  constant that moves.
- Single precision. The action is float32, and numpy >= 2 keeps ``python_float * float32`` in float32. Meta-World's
  ``tolerance``, ``float(...)`` and ``max(...)`` give PYTHON floats; ``np.linalg.norm`` and array elements are
  np.float64. So once a caging reward contains the gripper's effort, everything up to the first np.float64 is float32.
  The caging kernels return ``(value, single)``, where ``single`` tells whether the value is float32 in Meta-World.
  Compute the rest of the reward with ``kernels.mixed(single, rest, value, *python_floats)``, where ``rest`` is a
  function of the value and of the Python floats that Meta-World computes in double precision before it combines them
  with the value. Otherwise rewards are off by 1e-7, and parity tests fail.
- Meta-World may raise an error (``hamacher_product`` outside [0, 1], a negative margin, an assert). The functions here
  check none of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from mtrl.envs.metaworld.tasks.kernels import clip, distance
from mtrl.envs.metaworld.tasks.state import Outcome, State, Vector

RewardVersion = Literal["v1", "v2"]
Objects = Callable[[State], Vector]
Reward = Callable[[State], Outcome]

CURRENT_SIZE = 18
"""A frame: hand (3), gripper's opening (1), objects (14)."""
OBSERVATION_SIZE = 39
"""The current frame (18), the previous one (18) and the goal (3)."""
NOTHING: Mapping[str, str] = MappingProxyType({})
NO_QUATERNION = (0.0, 0.0, 0.0, 0.0)
HAND_LOW, HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
"""Bounds of the hand in observations."""
_NO_OBJECT = (0.0,) * 7

COMMON_PROBES: Mapping[str, str] = MappingProxyType(
    {
        "hand": "body.hand.xpos",
        "left_pad": "body.leftpad.xpos",
        "right_pad": "body.rightpad.xpos",
        "left_claw": "body.leftclaw.xpos",
        "right_claw": "body.rightclaw.xpos",
        "left_tip": "site.leftEndEffector.xpos",
        "right_tip": "site.rightEndEffector.xpos",
    }
)
COMMON_CONSTANTS: Mapping[str, str] = MappingProxyType(
    {
        "target": "_target_pos",
        "obj_init": "obj_init_pos",
        "init_tcp": "init_tcp",
        "hand_init": "hand_init_pos",
        "goal_low": "goal_space.low",
        "goal_high": "goal_space.high",
    }
)


@dataclass(frozen=True)
class TaskSpec:
    """One task; see the module's docstring."""

    name: str
    objects: Objects
    reward_v2: Reward
    reward_v1: Reward
    probes: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    constants: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    state: tuple[str, ...] = ()

    @property
    def all_probes(self) -> dict[str, str]:
        """Common and own probes. Own probes may replace common ones."""
        return {**COMMON_PROBES, **self.probes}

    @property
    def all_constants(self) -> dict[str, str]:
        """Common and own constants, without those that are live (named in `probes`)."""
        merged = {**COMMON_CONSTANTS, **self.constants}
        return {name: source for name, source in merged.items() if name not in self.probes}

    def reward(self, version: RewardVersion) -> Reward:
        return self.reward_v2 if version == "v2" else self.reward_v1


def posed(s: State) -> Vector:
    """The objects of a task with one object, from the probes ``obj`` and ``obj_quaternion``."""
    return *s.obj, *s.obj_quaternion


def posed_by_matrix(s: State) -> Vector:
    """The objects of a task with one object, from the probes ``obj`` and ``obj_matrix``."""
    return *s.obj, *quaternion(s.obj_matrix)


def placed(s: State) -> Vector:
    """The objects of a task with one object, from the probe ``obj``, where Meta-World reports no orientation."""
    return *s.obj, *NO_QUATERNION


def quaternion(matrix: Vector) -> Vector:
    """A rotation matrix (9) as a quaternion (x, y, z, w): scipy's ``Rotation.from_matrix(m).as_quat()``.

    The branch is chosen by the same sums in the same order as in scipy, since ties at quarter turns decide the sign.
    """
    a, b, c, d, e, f, g, h, i = matrix
    trace = a + e + i
    if a >= e and a >= i and a >= trace:
        x, y, z, w = 1.0 + a - e - i, d + b, g + c, h - f
    elif e >= i and e >= trace:
        x, y, z, w = d + b, 1.0 + e - i - a, h + f, c - g
    elif i >= trace:
        x, y, z, w = g + c, h + f, 1.0 + i - a - e, d - b
    else:
        x, y, z, w = h - f, c - g, d - b, 1.0 + trace
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


def evaluate(objects: Objects, reward: Reward, s: State) -> Outcome:
    """Fill ``s.tcp``, ``s.observation`` and ``s.goal``, and return the reward and info terms of one copy."""
    left, right = s.left_tip, s.right_tip
    s.tcp = ((right[0] + left[0]) / 2.0, (right[1] + left[1]) / 2.0, (right[2] + left[2]) / 2.0)
    s.observation = frame(s.hand, distance(s.right_claw, s.left_claw) / 0.1, objects(s))
    s.goal = clipped(s.target, s.goal_low, s.goal_high)
    return reward(s)


def frame(hand: Vector, opening: float, objects: Vector) -> Vector:
    """A frame (18). Hand and opening are clipped to their bounds, objects are not. A missing object gives zeros."""
    return (*clipped(hand, HAND_LOW, HAND_HIGH), clip(opening, -1.0, 1.0), *objects, *_NO_OBJECT)[:CURRENT_SIZE]


def clipped(place: Vector, low: Vector, high: Vector) -> Vector:
    return clip(place[0], low[0], high[0]), clip(place[1], low[1], high[1]), clip(place[2], low[2], high[2])
