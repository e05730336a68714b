"""What a Meta-World task is to the batched engine, and how to write one.

The physics stays in a simulator; a task is pure arithmetic on arrays whose leading dimensions ``...`` are copies
(``(N,)`` in the engine, ``(steps,)`` in the parity tests). It never sees the simulator: the engine gathers *probes*
after ``mj_forward``, reads *constants* once after a reset, and calls the functions. Formulas and constants are those of
Meta-World (MIT, see NOTICE).

How to add a task, in the file of its family:

1. ``objects(s)`` returns ``(position, quaternion[, position, quaternion])`` in the package's order; parts are
   ``(..., 3)`` and ``(..., 4)``, or unbatched (`kernels.constant`). `kernels.quaternion` turns a probe ``*.xmat`` into
   scipy's quaternion. In rewards ``s.observation[..., 4:7]`` equals ``_get_pos_objects()``, and ``[..., :3]`` is the
   hand CLIPPED to the observation space (``s.hand`` is not).
2. ``reward_v2(s)`` and ``reward_v1(s)`` return an `Outcome`; fold ``evaluate_state`` into both (v1 often
   returns zeros: mirror what success, grasp_success and the rest become of them). ``np.where`` replaces ``if``, ``&``
   replaces ``and``. Fields are ``(...)`` arrays or Python numbers; booleans count as 0 and 1. Of numpy, use what
   `scalar` can trace: ``where exp log sqrt sin cos stack minimum maximum`` with positional arguments, and Python's
   ``abs``; `kernels` has the rest (``at_least``, ``norm``, ``within``, ``hamacher``, ...).
3. ``TaskSpec(name, objects, reward_v2, reward_v1, probes, constants, state)`` goes into the module's ``SPECS``, the
   module into ``_FAMILIES`` of the package:

   - ``probes``: {our name: simulator quantity}, read after every step. ``body.<n>.xpos|xquat|xmat``,
     ``geom.<n>.xpos|xmat`` and ``site.<n>.xpos|xmat`` are ``(..., 3|4|9)``; ``joint.<n>.qpos`` (hinge or slide) and
     ``touching.<geom>`` (1.0 where both finger pads press on it: compare ``> 0``) are ``(...)``. A tuple of names of
     one kind is stacked: ``(..., 2, 3)``.
   - ``constants``: {our name: attribute of the package's environment}, a scalar ``(...)`` or a vector ``(..., k)``,
     copied after each reset; ``model.body.<n>.pos`` and the like read the compiled model instead.
   - ``state``: names of latched ``(...)`` variables: NaN after a reset, updated IN PLACE (``s["x"][...] = new``).

   Always there, as ``s.<name>``: the probes ``hand`` and the pairs (left, right) ``pads``, ``claws``, ``tips``;
   ``tcp``, the middle of the tips (v1's ``fingerCOM``); the constants ``target obj_init init_tcp hand_init``;
   ``observation (..., 39)``, float64 and clipped; ``action (..., 4)``, float32 and NOT clipped. A task's own names are
   read as ``s["name"]``.

Traps:

- Live views. The package keeps ``init_left_pad`` and ``init_right_pad`` as views of the simulator: they ARE the current
  pads. ``_target_pos`` is live in basketball and bin-picking, ``obj_init_pos`` in door-lock and door-unlock: override
  the constant by a probe of the same name (``probes={"target": "site.goal.xpos"}``). The parity tests refuse a
  constant that moves.
- Single precision. The action is float32, and numpy >= 2 keeps ``python_float * float32`` in float32. The package's
  ``tolerance``, ``float(...)`` and ``max(...)`` give PYTHON floats; ``np.linalg.norm`` and array elements np.float64.
  So once a caging reward contains the gripper's effort, everything up to the first np.float64 is float32. The caging
  kernels return ``(value, single)`` where ``single`` marks those copies; pass the rest of the reward through
  ``kernels.mixed(single, tail, value, *python_floats)``, each argument being a number that the package has
  computed in full before it meets the float32 one. Without it rewards are off by 1e-7, which the parity tests see.
- ``max(action[-1], 0) / 50`` in v1 rewards is float32 too: `kernels.closing_bonus`.
- The engine traces the functions to write scalar code (`scalar`): no ``if`` on an array, no indexing by arrays, and
  `kernels.cast` in place of ``np.asarray``, which would hide its argument.
- The package may raise (``hamacher_product`` outside [0, 1], a negative margin, an assert); these functions never do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from mtrl.envs.metaworld.tasks import kernels

Array: TypeAlias = Any
"""A numpy array, or one whose operations `scalar` records."""
RewardVersion = Literal["v1", "v2"]

OBJECTS = slice(4, 18)
CURRENT_SIZE = 18
OBSERVATION_SIZE = 39
NOTHING: Mapping[str, str] = MappingProxyType({})

COMMON_PROBES: Mapping[str, str | tuple[str, ...]] = MappingProxyType(
    {
        "hand": "body.hand.xpos",
        "pads": ("body.leftpad.xpos", "body.rightpad.xpos"),
        "claws": ("body.leftclaw.xpos", "body.rightclaw.xpos"),
        "tips": ("site.leftEndEffector.xpos", "site.rightEndEffector.xpos"),
    }
)
COMMON_CONSTANTS: Mapping[str, str] = MappingProxyType(
    {"target": "_target_pos", "obj_init": "obj_init_pos", "init_tcp": "init_tcp", "hand_init": "hand_init_pos"}
)


class Outcome(NamedTuple):
    """Reward and info terms of one step, each ``(...)`` or a Python number; ``unscaled_reward`` is the reward."""

    reward: Array
    success: Array
    near_object: Array
    grasp_success: Array
    grasp_reward: Array
    in_place_reward: Array
    obj_to_target: Array


class Inputs:
    """Everything a task may read, as arrays with common leading dimensions ``...``.

    The arrays may be views that the engine refills: `evaluate` derives ``tcp`` anew at each call.
    """

    def __init__(self, values: Mapping[str, Array], observation: Array, action: Array) -> None:
        self.values = values
        self.observation = observation
        self.action = action
        self.hand = values["hand"]
        self.pads = values["pads"]
        self.claws = values["claws"]
        self.tips = values["tips"]
        self.target = values["target"]
        self.obj_init = values["obj_init"]
        self.init_tcp = values["init_tcp"]
        self.hand_init = values["hand_init"]
        self.tcp: Array = None

    def __getitem__(self, name: str) -> Array:
        return self.values[name]


Objects = Callable[[Inputs], tuple[Array, ...]]
Reward = Callable[[Inputs], Outcome]


@dataclass(frozen=True)
class TaskSpec:
    """One task; see the module's guide. ``reward_v1`` is the reason, a string, where the package's own v1 fails."""

    name: str
    objects: Objects
    reward_v2: Reward
    reward_v1: Reward | str
    probes: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: NOTHING)
    constants: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    state: tuple[str, ...] = ()

    @property
    def all_probes(self) -> dict[str, str | tuple[str, ...]]:
        """Common and own probes; the common ones come first and own ones may replace them."""
        return {**COMMON_PROBES, **self.probes}

    @property
    def all_constants(self) -> dict[str, str]:
        """Common and own constants, without those that are live (named in `probes`)."""
        merged = {**COMMON_CONSTANTS, **self.constants}
        return {name: source for name, source in merged.items() if name not in self.probes}

    def reward(self, version: RewardVersion) -> Reward:
        """The reward function of a version. Raises ValueError where the package's own fails."""
        function = self.reward_v2 if version == "v2" else self.reward_v1
        if isinstance(function, str):
            raise ValueError(f"Task `{self.name}` has no v1 reward: {function}")
        return function


def write_current(spec: TaskSpec, s: Inputs, out: Array) -> None:
    """Writes the 18 current observation entries (hand, gripper opening, objects; not clipped) into ``out (..., 18)``.

    Entries that the task's objects do not reach are left as they are: hand over zeros the first time.
    """
    out[..., :3] = s.hand
    apart = kernels.norm(s.claws[..., 1, :] - s.claws[..., 0, :]) / 0.1
    out[..., 3] = kernels.at_most(apart, 1.0)
    column = OBJECTS.start
    for part in spec.objects(s):
        width = part.shape[-1]
        out[..., column : column + width] = part
        column += width


def write_observation(current: Array, previous: Array, target: Array, low: Array, high: Array, out: Array) -> None:
    """Writes both frames ``(..., 18)`` and the goal ``(..., 3)`` into ``out (..., 39)``, clipped to the space."""
    out[..., :CURRENT_SIZE] = current
    out[..., CURRENT_SIZE : 2 * CURRENT_SIZE] = previous
    out[..., 2 * CURRENT_SIZE :] = target
    np.maximum(out, low, out=out)
    np.minimum(out, high, out=out)


def evaluate(spec: TaskSpec, s: Inputs, version: RewardVersion = "v2") -> Outcome:
    """Reward and info of all copies. ``s.observation`` must hold this step's observation already."""
    s.tcp = (s.tips[..., 1, :] + s.tips[..., 0, :]) / 2.0
    return spec.reward(version)(s)


def graded(
    s: Inputs, obj: Array, reward: Array, to_target: Array, radius: float, grasped: Array, in_place: Array
) -> Outcome:
    """The outcome of tasks that carry ``obj (..., 3)``: 10 within 5 cm of the goal, success within ``radius``."""
    return Outcome(
        reward=np.where(to_target < 0.05, 10.0, reward),
        success=to_target <= radius,
        near_object=kernels.distance(obj, s.tcp) <= 0.03,
        grasp_success=kernels.grasped_and_raised(s, obj),
        grasp_reward=grasped,
        in_place_reward=in_place,
        obj_to_target=to_target,
    )
