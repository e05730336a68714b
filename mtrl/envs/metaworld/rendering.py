"""Pictures of Meta-World without a display, and a video of one episode per task."""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.types import FloatArray
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.package_envs import PackageEnvs
from mtrl.envs.offscreen import graphics_context, offscreen_backend
from mtrl.monitoring.video import MACRO_BLOCK, Clip, Frame, check_writer, tile, write_video

_CAMERA = "corner2"
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value


class Renderer:
    """Pictures of one model from one of its cameras, without shadows, reflections and multisampling.

    Use it in a `with` block: the graphics context is freed at its end.

    Args:
        width, height: in pixels; square if only one is given.
        camera: by default the corner camera, turned upright.

    Raises:
        UserError: the model has no such camera.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int | None = None, camera: str | None = None) -> None:
        height, cameras = height or width, [model.camera(i).name for i in range(model.ncam)]
        if camera is not None and camera not in cameras:
            raise expected("Argument `camera_name`", f"one of {', '.join(cameras)}", camera)
        self._model, self._turned = model, camera in (None, _CAMERA)
        self._picture = np.empty((height, width, 3), np.uint8)
        self._area = mujoco.MjrRect(0, 0, width, height)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera or _CAMERA).id
        self._options = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        quality, screen = model.vis.quality, model.vis.global_
        quality.offsamples, quality.shadowsize = 0, 0
        screen.offwidth, screen.offheight = max(screen.offwidth, width), max(screen.offheight, height)
        self._graphics = graphics_context(width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphics context."""
        self._graphics.make_current()
        self._context.free()
        self._graphics.free()

    def frame(self, data: mujoco.MjData) -> Frame:
        """(height, width, 3): the state in `data`, after its forward dynamics."""
        self._graphics.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._area, self._scene, self._context)
        mujoco.mjr_readPixels(self._picture, None, self._area, self._context)
        # OpenGL's rows begin at the bottom. The corner camera is upside down: left and right are what is left to turn.
        return (self._picture[:, ::-1] if self._turned else self._picture[::-1]).copy()


class EnginePictures:
    """Pictures of all copies of an engine, which itself has models without visuals.

    Args:
        width, height, camera: see `Renderer`.
    """

    def __init__(self, envs: BatchedEnvs, width: int, height: int, camera: str | None) -> None:
        self._envs = envs
        self._models = [whole_model(task) for task in envs.tasks]
        self._datas = [mujoco.MjData(model) for model in self._models]
        self._renderers = [Renderer(model, width, height, camera) for model in self._models]

    def draw(self) -> list[Frame]:
        """(height, width, 3) of each copy, task after task."""
        frames = []
        for model, data, renderer, physics in zip(
            self._models, self._datas, self._renderers, self._envs.physics, strict=True
        ):
            for n in range(self._envs.envs_per_task):
                model.body_pos[:], model.site_pos[:] = physics.positions(n)
                mujoco.mj_setState(model, data, physics.state(n), _STATE)
                mujoco.mj_forward(model, data)
                frames.append(renderer.frame(data))
        return frames

    def close(self) -> None:
        for renderer in self._renderers:
            renderer.close()


@dataclass
class _Recording:
    """What one task's episode looked like, as states of the simulator; they are drawn afterwards, task by task."""

    env: Any
    states: list[NDArray[np.float64]] = field(default_factory=list)
    solved: bool = False

    def add(self) -> None:
        state = np.empty(mujoco.mj_stateSize(self.env.model, _STATE))
        mujoco.mj_getState(self.env.model, self.env.data, state, _STATE)
        self.states.append(state)

    def draw(self, size: int) -> list[Frame]:
        model, data, frames = self.env.model, self.env.data, []
        with Renderer(model, size) as renderer:
            for state in self.states:
                mujoco.mj_setState(model, data, state, _STATE)
                mujoco.mj_forward(model, data)
                frames.append(renderer.frame(data))
        return frames


def rollout_video(
    policy: Callable[[FloatArray], FloatArray],
    envs: PackageEnvs,
    path: Path,
    *,
    tasks: Sequence[str],
    size: int = 240,
    steps_per_frame: int = 2,
    frames_per_second: int = 16,
) -> dict[str, bool]:
    """Write an mp4 of one episode of each task of `envs`, side by side; return which were solved.

    Args:
        policy: observations (T, 1, 39) of `tasks` to actions (T, 1, 4); tasks not filmed see zeros.
        envs: one copy of each task to be filmed.
        size: pixels of a task's square, a multiple of 16.
        steps_per_frame: 5 at 16 frames a second is real time; good policies solve most tasks within a second of it.

    Raises:
        RenderingUnavailable: no offscreen OpenGL or no video writer; nothing has run then.
        UserError: a task that the policy does not know, or an impossible size.
    """
    check(set(envs.tasks) <= set(tasks), "tasks", f"among {', '.join(tasks)}", list(envs.tasks))
    check(size >= MACRO_BLOCK and size % MACRO_BLOCK == 0, "size", f"a multiple of {MACRO_BLOCK}", size)
    check_writer()
    offscreen_backend()
    recordings = _play(policy, envs, [list(tasks).index(task) for task in envs.tasks], len(tasks), steps_per_frame)
    parts = zip(envs.tasks, recordings, strict=True)
    clips = [Clip(task, recording.draw(size), recording.solved) for task, recording in parts]
    write_video(path, tile(clips), frames_per_second)
    return {clip.title: bool(clip.solved) for clip in clips}


def _play(
    policy: Callable[[FloatArray], FloatArray], envs: PackageEnvs, rows: Sequence[int], num_tasks: int, every: int
) -> list[_Recording]:
    """One episode of each task; where one has ended, the environment stands still at its end.

    Args:
        rows: where the policy has the tasks of ``envs`` among its ``num_tasks``.
    """
    recordings = [_Recording(env) for env in envs.envs]
    first = envs.reset()
    seen = np.zeros((num_tasks, *first.shape[1:]))
    seen[rows] = first
    running = np.ones(len(rows), bool)
    for recording in recordings:
        recording.add()
    step = 0
    while running.any():
        result = envs.step(policy(seen)[rows])
        seen[rows] = result.observation
        step += 1
        ended = (result.terminated | result.truncated)[:, 0]
        for i in np.flatnonzero(running):
            if ended[i] or step % every == 0:
                recordings[i].add()
            recordings[i].solved |= bool(result.success[i, 0])
        running &= ~ended
    return recordings
