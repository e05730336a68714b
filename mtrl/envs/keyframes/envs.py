"""Environments for evaluation: N copies of each of T tasks, whose actions are keyframes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mtrl.core.cores import available_cores
from mtrl.core.types import FloatArray
from mtrl.data.demos import Frame
from mtrl.data.keyframe_envs import KeyframeStep
from mtrl.envs.keyframes.cameras import Renderer, observe
from mtrl.envs.keyframes.episode import Episode


class KeyframeCopies:
    """Implements `KeyframeEnvs` with scenes that no demonstration shows.

    Copies are simulated in parallel, in one thread per core, since physics takes most of the time. Pictures are drawn
    in the caller's thread, which owns the graphics context.

    Raises:
        RenderingUnavailable: offscreen OpenGL is not available.
    """

    def __init__(
        self, tasks: Sequence[str], envs_per_task: int, seed: int, cameras: Sequence[str], image_size: int
    ) -> None:
        self.num_tasks, self.envs_per_task = len(tasks), envs_per_task
        self.episodes = [[Episode(task, seed, "evaluation") for _ in range(envs_per_task)] for task in tasks]
        self._cameras = tuple(cameras)
        self._renderer = Renderer(image_size)
        self._threads = ThreadPoolExecutor(available_cores(), "copies")
        self._frames: list[list[Frame]] = []

    def reset(self, first: int = 0) -> Sequence[Sequence[Frame]]:
        self._each(lambda _, copy, episode: episode.begin(first + copy))
        self._frames = self.observe()
        return self._frames

    def observe(self) -> list[list[Frame]]:
        """The current frames, T × N."""
        return [[self._observe(episode) for episode in row] for row in self.episodes]

    def step(self, action: FloatArray) -> KeyframeStep:
        frames, moving = [list(row) for row in self._frames], [[not e.over for e in row] for row in self.episodes]
        self._each(lambda task, copy, episode: episode.act(action[task, copy]))
        for task, copy in np.argwhere(moving):
            frames[task][copy] = self._observe(self.episodes[task][copy])
        self._frames = frames
        success = np.array([[episode.success for episode in row] for row in self.episodes])
        over = np.array([[episode.over for episode in row] for row in self.episodes])
        return KeyframeStep(frames, success, over)

    @property
    def stages(self) -> np.ndarray:
        """(T, N) integers: the number of keyframe actions taken in each episode."""
        return np.array([[episode.stage for episode in row] for row in self.episodes])

    def close(self) -> None:
        self._threads.shutdown()
        self._renderer.close()

    def _each(self, work: Callable[[int, int, Episode], None]) -> None:
        """Call `work` with the task, the number and the episode of every copy, in parallel threads."""
        jobs = [(task, copy, episode) for task, row in enumerate(self.episodes) for copy, episode in enumerate(row)]
        for _ in self._threads.map(lambda job: work(*job), jobs):
            pass  # reading the results raises a copy's exception

    def _observe(self, episode: Episode) -> Frame:
        return observe(episode.world, self._cameras, self._renderer.size, self._renderer)
