"""Draws MuJoCo scenes without a display, through EGL or OSMesa (on macOS, CGL).

A subprocess finds out which backend works, because a broken driver can crash the process that uses it. The context is
then made by that backend's own class, so the environment variable `MUJOCO_GL` need not be set before mujoco is
imported. If it is set, it chooses the backend.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import subprocess
import sys
import threading

from mtrl.monitoring.video import RenderingUnavailable

_BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
_ANY = ("", "enable", "enabled", "on", "true", "1", "glfw", "glx")
"""Values of `MUJOCO_GL` that leave the choice to this module. glfw and glx need a window and count as unset."""
_PROBE = """
import importlib, mujoco
context = importlib.import_module("mujoco." + {backend!r}).GLContext(16, 16)
context.make_current()
rendering = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
rendering.free()
context.free()
"""


@functools.cache
def offscreen_backend() -> str:
    """egl or osmesa (on macOS, cgl): the first that works here, or the one that `MUJOCO_GL` names if it works.

    Raises:
        RenderingUnavailable: none works, or an environment variable has an impossible value.
    """
    candidates = _candidates()
    for backend in candidates:
        environment = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
        probe = [sys.executable, "-c", _PROBE.format(backend=backend)]
        try:
            answer = subprocess.run(probe, env=environment | {"MUJOCO_GL": backend}, capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            continue
        if answer.returncode == 0:
            return backend
    raise RenderingUnavailable(
        f"Drawing needs offscreen OpenGL, but {' and '.join(candidates)} failed (MUJOCO_GL chooses what is tried). On "
        "Debian and Ubuntu, `apt-get install libosmesa6` or `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` "
        "installs it."
    )


def _candidates() -> list[str]:
    """The backends that environment variables allow.

    Raises:
        RenderingUnavailable: they allow none.
    """
    wanted, platform = (os.environ.get(name, "").lower().strip() for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"))
    if wanted not in (*_BACKENDS, *_ANY):
        known = " or ".join(_BACKENDS)
        raise RenderingUnavailable(f"The variable MUJOCO_GL should be {known}, or not set. Found {wanted!r}.")
    candidates: list[str] = [wanted] if wanted in _BACKENDS else [*_BACKENDS]
    fitting = [backend for backend in candidates if platform in ("", backend)]
    if not fitting and sys.platform != "darwin":
        known = " or ".join(candidates)
        raise RenderingUnavailable(f"The variable PYOPENGL_PLATFORM should be {known}, or not set. Found {platform!r}.")
    return fitting or candidates


class OffscreenContext:
    """A mujoco OpenGL context for pictures of up to width x height pixels. It is current only in a `with` block.

    Python may collect another library's unused renderer at any time and in any thread. OpenGL then deletes, in the
    context that is current in the thread, the objects with the same numbers as that renderer's. If this were our
    context, it would draw wrong pictures or crash. Therefore no garbage is collected inside the block, and an empty
    context is current after it.

    A context can be used only in the thread that made it.

    Raises:
        RenderingUnavailable: see `offscreen_backend`.
    """

    def __init__(self, width: int, height: int) -> None:
        make = importlib.import_module(f"mujoco.{offscreen_backend()}").GLContext
        self._context, self._empty = make(width, height), make(1, 1)

    def __enter__(self) -> OffscreenContext:
        _collections.pause()
        try:
            self._context.make_current()
        except BaseException:
            _collections.resume()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._empty.make_current()
        finally:
            _collections.resume()

    def free(self) -> None:
        """Free both contexts. First, the caller must free what mujoco has made in them, in a `with` block."""
        self._context.free()
        self._empty.free()


class _Collections:
    """Pauses the process's garbage collector while any thread is in a block of an `OffscreenContext`."""

    def __init__(self) -> None:
        self._lock, self._pauses, self._enabled = threading.Lock(), 0, False

    def pause(self) -> None:
        with self._lock:
            if not self._pauses:
                self._enabled = gc.isenabled()
                gc.disable()
            self._pauses += 1

    def resume(self) -> None:
        with self._lock:
            self._pauses -= 1
            if not self._pauses and self._enabled:
                gc.enable()


_collections = _Collections()
