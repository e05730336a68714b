"""The interface of the environments in which keyframe policies are evaluated. An action is a gripper pose to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mtrl.core.types import BoolArray, FloatArray
from mtrl.data.demos import Frame

ACTION_SIZE = 8
"""xyz in metres, quaternion xyzw, gripper (open if > 0.5). The fingers move after the gripper has reached the pose."""


class KeyframeStep(NamedTuple):
    """The result of one action in every copy."""

    frames: Sequence[Sequence[Frame]]
    """T × N: the frames to act on next, with the policy's cameras; arbitrary where an episode has ended."""
    success: BoolArray
    """(T, N): whether the task has been solved in this episode."""
    over: BoolArray
    """(T, N): whether the episode has ended: solved, at its limit of keyframes, or with an infeasible action."""


class KeyframeEnvs(Protocol):
    """N copies of each of T tasks. Episodes are numbered: episode e of a task has the same scene for any N."""

    num_tasks: int
    envs_per_task: int

    def reset(self, first: int = 0) -> Sequence[Sequence[Frame]]:
        """Begin the episodes `first` to `first` + N − 1 of every task. Returns their first frames, T × N."""
        ...

    def step(self, action: FloatArray) -> KeyframeStep:
        """Apply actions (T, N, 8). A copy whose episode has ended ignores its action, and is not reset."""
        ...

    def close(self) -> None: ...
