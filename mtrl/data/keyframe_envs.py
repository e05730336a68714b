"""The environments in which keyframe policies are evaluated: an action is a gripper pose to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mtrl.core.types import BoolArray, FloatArray
from mtrl.data.demos import Frame

ACTION_SIZE = 8
"""xyz in metres, quaternion xyzw, gripper (> 0.5 open): reach the pose, then move the fingers."""


class KeyframeStep(NamedTuple):
    """The result of one keyframe action of every copy."""

    frames: Sequence[Sequence[Frame]]
    """T × N: the frames to act on next, with images of the policy's cameras; arbitrary where an episode has ended."""
    success: BoolArray
    """(T, N): whether the task has been solved in this episode."""
    over: BoolArray
    """(T, N): whether the episode has ended: solved, out of keyframes, or an action that could not be executed."""


class KeyframeEnvs(Protocol):
    """N copies of each of T tasks. Episodes are numbered: number e of a task is the same scene whatever N is."""

    num_tasks: int
    envs_per_task: int

    def reset(self, first: int = 0) -> Sequence[Sequence[Frame]]:
        """Begin the episodes first, .., first + N − 1 of every task and return their first frames, T × N."""
        ...

    def step(self, action: FloatArray) -> KeyframeStep:
        """Apply actions (T, N, 8). A copy whose episode is over ignores its action; nothing restarts by itself."""
        ...

    def close(self) -> None: ...
