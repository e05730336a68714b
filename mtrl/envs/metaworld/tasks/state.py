"""The types that a task's functions read and return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

Vector: TypeAlias = tuple[float, ...]
"""A position (3), a quaternion (4), or the rows of a rotation matrix (9)."""


class State:
    """One copy of a task after a step; see `base` for the probes, constants and state that tasks add."""

    hand: Vector
    left_pad: Vector
    right_pad: Vector
    left_claw: Vector
    right_claw: Vector
    left_tip: Vector
    right_tip: Vector
    target: Vector
    obj_init: Vector
    init_tcp: Vector
    hand_init: Vector
    goal_low: Vector
    goal_high: Vector
    previous: Vector
    """(18): the frame of the step before."""
    command: Any
    """The gripper's action as in Meta-World: float32, and not clipped."""
    tcp: Vector
    """The middle of the fingers' tips, Meta-World's ``tcp_center`` (v1's ``fingerCOM``)."""
    observation: Vector
    """(18): the frame of this step: hand (3) and gripper opening (1), clipped to their bounds, and objects (14)."""
    goal: Vector
    """(3): ``target``, clipped to ``goal_low`` and ``goal_high``."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Outcome(NamedTuple):
    """Reward and info terms of one step; ``unscaled_reward`` is the reward."""

    reward: float
    success: float
    near_object: float
    grasp_success: float
    grasp_reward: float
    in_place_reward: float
    obj_to_target: float
