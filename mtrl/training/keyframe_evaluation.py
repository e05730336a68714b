"""Evaluation by playing episodes from keyframe to keyframe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.suite import EPISODES
from mtrl.core.types import BoolArray
from mtrl.data.demo_cache import KeyframeObservation, observe
from mtrl.data.demos import Frame
from mtrl.data.keyframe_envs import KeyframeEnvs
from mtrl.training.evaluation import EvaluationResult


class KeyframePolicy(Protocol):
    def act(self, observation: KeyframeObservation) -> Tensor:
        """The next keyframes (T, N, 8)."""
        ...


class Observer:
    """Joins frames (T × N) into one observation. A copy whose episode is over keeps its last frame.

    cameras: in the order of the observation; size: pixels along a side of its pictures.
    """

    def __init__(self, cameras: Sequence[str], size: int) -> None:
        self.cameras, self.size = cameras, size
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, frames: Sequence[Sequence[Frame]], over: BoolArray, stage: int) -> KeyframeObservation:
        for t, n in np.argwhere(~over):
            for name, array in observe(frames[t][n], self.cameras, self.size).items():
                if name not in self._arrays:
                    self._arrays[name] = np.zeros((*over.shape, *array.shape), array.dtype)
                self._arrays[name][t, n] = array
        stages = torch.full(over.shape, stage, dtype=torch.int64)
        return KeyframeObservation(**{n: torch.tensor(a) for n, a in self._arrays.items()}, stage=stages)


def play(
    policy: KeyframePolicy,
    envs: KeyframeEnvs,
    episodes: int,
    cameras: Sequence[str],
    size: int,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Play the episodes 0 to `episodes` − 1 of every task.

    The return of an episode is 1 if it is solved and 0 if not. Lengths are in keyframes. cameras, size: as in
    `Observer`.

    Raises:
        UserError: `episodes` is not positive.
    """
    check(episodes >= 1, EPISODES, "a positive integer", episodes)
    tasks, copies = envs.num_tasks, envs.envs_per_task
    shape = (tasks, -(-episodes // copies) * copies)
    success, lengths = np.zeros(shape, bool), np.zeros(shape, np.int64)
    for first in range(0, episodes, copies):
        part = slice(first, first + copies)
        success[:, part], lengths[:, part] = _episodes(policy, envs, first, cameras, size)
        if progress is not None:
            progress(tasks * min(first + copies, episodes), tasks * episodes)
    success, lengths = success[:, :episodes], lengths[:, :episodes]
    return EvaluationResult(success, success.astype(np.float64), lengths)


def _episodes(
    policy: KeyframePolicy, envs: KeyframeEnvs, first: int, cameras: Sequence[str], size: int
) -> tuple[Any, Any]:
    """Success and length (T, N) of one episode of every copy; the first copy plays episode `first`."""
    observer, frames = Observer(cameras, size), envs.reset(first)
    over = np.zeros((envs.num_tasks, envs.envs_per_task), bool)
    success, lengths, stage = over.copy(), np.zeros(over.shape, np.int64), 0
    while not over.all():
        action = policy.act(observer(frames, over, stage)).cpu().numpy()
        step = envs.step(action)
        lengths += ~over
        frames, success, over, stage = step.frames, success | step.success, over | step.over, stage + 1
    return success, lengths
