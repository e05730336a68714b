"""Videos of pushing: several goals side by side, each with a disc of the success radius where the puck should go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.rendering import Renderer, offscreen_backend
from mtrl.envs.metaworld.starts import INTEGRATION
from mtrl.envs.pushing.envs import RADIUS, PushEnvs
from mtrl.envs.pushing.goals import TASK, Goals
from mtrl.envs.simulator import mujoco
from mtrl.monitoring.video import Clip, Frame, check_writer, tile, write_video

_MARK = (0.1, 0.9, 0.2, 0.6)


def rollout_video(
    policy: Callable[..., FloatArray],
    suite: Any,
    path: Path,
    *,
    goals: Goals,
    size: int = 240,
    steps_per_frame: int = 4,
    frames_per_second: int = 15,
) -> list[bool]:
    """Write an mp4 of one episode of each goal (n, 4). Returns, for each, whether the puck was in place at some step.

    The last step, after which the environments restart, is not played.

    Args:
        policy: maps observations (n, 1, 22) and the goals' `TaskSubset` to actions (n, 1, 4).
        suite: makes the environments (`make_goal_envs`).
        size: pixels along a side of a goal's square, a multiple of 16.
        steps_per_frame: environment steps between two frames.

    Raises:
        RenderingUnavailable: there is no offscreen OpenGL or no video writer. This is found before the first episode.
    """
    check_writer()
    offscreen_backend()
    with contextlib.closing(suite.make_goal_envs(goals)) as envs:
        states, distances, solved = _play(policy, envs, suite.spec.horizon, steps_per_frame)
    clips = []
    with contextlib.closing(Pictures(size)) as pictures:
        for i, goal in enumerate(goals):
            title = f"goal {i}: {100 * distances[i]:.0f} cm from its place at the end"
            frames = [pictures.frame(frame[i], goal) for frame in states]
            clips.append(Clip(title, frames, bool(solved[i])))
    write_video(path, tile(clips), frames_per_second)
    return solved.tolist()


def _play(policy: Callable[..., FloatArray], envs: PushEnvs, horizon: int, every: int) -> tuple[list[Any], Any, Any]:
    """Simulator states (n, S) at every `every`-th step, final distances (n,), and which pucks were in place (n,).

    The last step is left out, since it restarts the episodes.
    """
    observation, goals = envs.reset(), envs.present
    states, solved = [envs.states()], np.zeros(envs.num_tasks, bool)
    for step in range(1, horizon):
        result = envs.step(policy(observation, goals))
        observation = result.observation
        solved |= result.success[:, 0]
        if step % every == 0:
            states.append(envs.states())
    return states, envs.distance[:, 0].copy(), solved


class Pictures:
    """Draws states of the simulator, with a mark where the puck should go.

    Raises:
        RenderingUnavailable: there is no offscreen OpenGL.
    """

    def __init__(self, size: int) -> None:
        self._model: Any = whole_model(TASK)
        self._data = mujoco.MjData(self._model)
        self._mark = self._model.site("goal")
        self._mark.type, self._mark.size, self._mark.rgba = mujoco.mjtGeom.mjGEOM_CYLINDER, (RADIUS, 0.002, 0.0), _MARK
        self._renderer = Renderer(self._model, size)

    def frame(self, state: FloatArray, goal: FloatArray) -> Frame:
        """A picture (size, size, 3) of a state (S,) with a goal (4,)."""
        self._mark.pos = (*goal[2:], 0.004)
        mujoco.mj_setState(self._model, self._data, state, INTEGRATION)
        mujoco.mj_forward(self._model, self._data)
        return self._renderer.frame(self._data)

    def close(self) -> None:
        self._renderer.close()
