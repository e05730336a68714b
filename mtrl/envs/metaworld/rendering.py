"""Pictures of Meta-World without a display, and a video of one episode per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.types import BoolArray, FloatArray
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.package_envs import PackageEnvs
from mtrl.envs.offscreen import OffscreenContext, offscreen_backend
from mtrl.envs.simulator import mujoco
from mtrl.monitoring.video import MACRO_BLOCK, Clip, Frame, check_writer, tile, write_video

_CAMERA = "corner2"
_EVERYTHING = mujoco.mjtCatBit.mjCAT_ALL.value
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value


class Renderer:
    """Draws one model from some of its cameras, without shadows, reflections or multisampling.

    Use it in a `with` block, which frees the graphics context at its end, and only in the thread that made it.

    Args:
        model: the model to draw, whose rendering settings are changed.
        width, height: in pixels; by default, the height is the width.
        cameras: K names. Pictures from corner2, which is mounted upside down, are turned upright.

    Raises:
        RenderingUnavailable: there is no offscreen OpenGL.
        UserError: the model has no such camera.
    """

    def __init__(self, model: Any, width: int, height: int | None = None, cameras: Sequence[str] = (_CAMERA,)) -> None:
        height, known = height or width, [model.camera(i).name for i in range(model.ncam)]
        for camera in cameras:
            if camera not in known:
                raise expected("Argument `camera_name`", f"one of {', '.join(known)}", camera)
        self._model = model
        # OpenGL's rows begin at the bottom. corner2 is upside down, so only left and right are swapped for it.
        self._picture = np.empty((height, width, 3), np.uint8)
        turned, flipped = self._picture[:, ::-1], self._picture[::-1]
        self._views = [(_fixed(model.camera(name).id), turned if name == _CAMERA else flipped) for name in cameras]
        self._area = mujoco.MjrRect(0, 0, width, height)
        self._options = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        quality, screen = model.vis.quality, model.vis.global_
        quality.offsamples, quality.shadowsize = 0, 0
        screen.offwidth, screen.offheight = max(screen.offwidth, width), max(screen.offheight, height)
        self._graphics = OffscreenContext(width, height)
        try:
            with self._graphics:
                self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
                mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        except BaseException:
            self._graphics.free()
            raise

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphics context."""
        with self._graphics:
            self._context.free()
        self._graphics.free()

    def draw(self, data: Any, out: NDArray[np.uint8]) -> None:
        """Draw the state in `data`, on which ``mj_forward`` has been called, into `out` (K, height, width, 3)."""
        with self._graphics:
            for (camera, picture), place in zip(self._views, out, strict=True):
                mujoco.mjv_updateScene(self._model, data, self._options, None, camera, _EVERYTHING, self._scene)
                mujoco.mjr_render(self._area, self._scene, self._context)
                mujoco.mjr_readPixels(self._picture, None, self._area, self._context)
                place[...] = picture

    def frame(self, data: Any) -> Frame:
        """(height, width, 3): a picture from the first camera."""
        out = np.empty((len(self._views), *self._picture.shape), np.uint8)
        self.draw(data, out)
        return out[0]


def _fixed(camera: int) -> Any:
    fixed = mujoco.MjvCamera()
    fixed.type, fixed.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
    return fixed


class EnginePictures:
    """Draws the copies of an engine, on as many threads as the engine has.

    The engine's models have no visuals, so states are drawn with Meta-World's complete models.

    Args:
        width, height, cameras: see `Renderer`.

    Raises:
        RenderingUnavailable: there is no offscreen OpenGL.
        UserError: the models have no such camera.
    """

    pictures: NDArray[np.uint8]
    """(T, N, K, height, width, 3): the last pictures drawn. The array is reused."""

    def __init__(self, envs: BatchedEnvs, width: int, height: int, cameras: Sequence[str] = (_CAMERA,)) -> None:
        offscreen_backend()
        self.pictures = np.zeros((envs.num_tasks, envs.envs_per_task, len(cameras), height, width, 3), np.uint8)
        self._everyone = np.ones(self.pictures.shape[:2], np.bool_)
        # A graphics context can be used in only one thread.
        self._threads = [ThreadPoolExecutor(1, "mtrl-pictures") for _ in range(envs.threads)]
        shares = np.array_split(np.argwhere(self._everyone), envs.threads)
        parts = zip(self._threads, shares, strict=True)
        making = [thread.submit(_Painter, envs, part.tolist(), self.pictures, cameras) for thread, part in parts]
        errors = [part.exception() for part in making]  # waits for all of them
        self._painters = [None if error else part.result() for part, error in zip(making, errors, strict=True)]
        if error := next(filter(None, errors), None):
            self.close()
            raise error

    def draw(self, which: BoolArray | None = None) -> NDArray[np.uint8]:
        """Draw the copies marked in `which` (T, N), or all. Returns `pictures`."""
        chosen = self._everyone if which is None else which
        drawing = [
            thread.submit(painter.draw, chosen)
            for thread, painter in zip(self._threads, self._painters, strict=True)
            if painter is not None
        ]
        for part in drawing:
            part.result()
        return self.pictures

    def close(self) -> None:
        for thread, painter in zip(self._threads, self._painters, strict=True):
            if painter is not None:
                thread.submit(painter.close).result()
        for thread in self._threads:
            thread.shutdown()


class _Painter:
    """Draws some (task, copy) pairs of an engine in one thread."""

    def __init__(
        self, envs: BatchedEnvs, copies: list[tuple[int, int]], pictures: NDArray[np.uint8], cameras: Sequence[str]
    ) -> None:
        self._envs, self._copies, self._pictures = envs, copies, pictures
        height, width = pictures.shape[-3:-1]
        self._scenes: dict[int, tuple[Any, Any, Renderer]] = {}
        try:
            for task in dict.fromkeys(task for task, _ in copies):
                model = whole_model(envs.tasks[task])
                self._scenes[task] = (model, mujoco.MjData(model), Renderer(model, width, height, cameras))
        except BaseException:
            self.close()
            raise
        self._state = np.empty(max((mujoco.mj_stateSize(m, _STATE) for m, *_ in self._scenes.values()), default=0))

    def draw(self, which: BoolArray) -> None:
        for task, n in self._copies:
            if which[task, n]:
                model, data, renderer = self._scenes[task]
                physics = self._envs.physics[task]
                model.body_pos[:], model.site_pos[:] = physics.positions(n)
                mujoco.mj_setState(model, data, physics.state(n, self._state), _STATE)
                mujoco.mj_forward(model, data)
                renderer.draw(data, self._pictures[task, n])

    def close(self) -> None:
        for *_, renderer in self._scenes.values():
            renderer.close()


@dataclass
class _Recording:
    """One task's episode as states of the simulator. They are drawn after the episodes of all tasks have ended."""

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
    """Write an mp4 of one episode of each task of `envs`, side by side. Returns {task: whether it was solved}.

    Args:
        policy: maps observations (T, 1, 39) of `tasks` to actions (T, 1, 4). Observations of tasks that are not filmed
            are zeros.
        envs: one copy of each task to be filmed, with a schedule of one episode each: a second one would move the goals
            before the first is drawn.
        tasks: the names of the policy's T tasks, in its order.
        size: pixels along a side of a task's square, a multiple of 16.
        steps_per_frame: environment steps between two frames. At 16 frames a second, 5 gives real time; good policies
            then solve most tasks within a second.

    Raises:
        RenderingUnavailable: there is no offscreen OpenGL or no video writer. This is found before the first episode.
        UserError: a task of `envs` is not among `tasks`, or `size` is not a multiple of 16.
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
    """Play one episode of each task. The recording of a task stops at the end of its episode.

    Args:
        rows: the index of each task of ``envs`` among the policy's ``num_tasks``.
        every: the number of steps between two recorded states.
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
