"""Episodes of a task: numbered scenes, keyframe actions, success and the end."""

from __future__ import annotations

import zlib

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.data.keyframe_envs import ACTION_SIZE
from mtrl.envs.keyframes.poses import Pose
from mtrl.envs.keyframes.scene import compile_scene
from mtrl.envs.keyframes.tasks import TASKS
from mtrl.envs.keyframes.world import Listener, World, silent

STREAMS = ("demos", "evaluation")
"""Scenes of demonstrations and of evaluations use different random streams, whatever the seed."""


class Episode:
    """A copy of a task. A scene depends only on the task, the seed, the stream (one of `STREAMS`) and its number."""

    def __init__(self, task: str, seed: int, stream: str) -> None:
        self.task = TASKS[task]
        self.world = World(compile_scene(self.task.name, self.task.objects))
        self._key = (STREAMS.index(stream), seed, zlib.crc32(task.encode()))
        self.stage = 0
        """The number of keyframe actions taken in this episode."""
        self.success = False
        self.over = False

    def begin(self, number: int) -> None:
        """Begin an episode in scene `number`."""
        self.world.reset()
        self.task.place(self.world, np.random.default_rng((*self._key, number)))
        self.world.settle()
        self.stage, self.success, self.over = 0, False, False

    def act(self, action: FloatArray, listener: Listener = silent) -> None:
        """Apply one keyframe action (8,), unless the episode is over.

        The position is clipped to the workspace. An action with a value that is not finite, or with a quaternion of
        length 0, ends the episode as a failure.
        """
        if self.over:
            return
        action = np.asarray(action, np.float64).reshape(ACTION_SIZE)
        if not np.isfinite(action).all() or np.linalg.norm(action[3:7]) < 1e-6:
            self.over = True
            return
        self.world.act(Pose(action[:3], action[3:7]), bool(action[7] > 0.5), listener)
        self.stage += 1
        self.success = bool(self.task.solved(self.world))
        self.over = self.success or self.stage >= self.task.keyframes

    def expert(self) -> list[FloatArray]:
        """The expert's actions, (8,) each, for the scene that has just begun."""
        return [
            np.array([*pose.position, *pose.quaternion, float(opened)]) for pose, opened in self.task.plan(self.world)
        ]
