"""Drawing MuJoCo scenes without a display, through EGL or OSMesa.

A subprocess finds out which of the two works, because a broken driver can crash its process. The context is then made
directly, so `MUJOCO_GL` need not be set before mujoco is imported; where it is set, it is obeyed.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from typing import Any

from mtrl.monitoring.video import RenderingUnavailable

_BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
_ANY = ("", "enable", "enabled", "on", "true", "1", "glfw", "glx")
"""Values of `MUJOCO_GL` that leave the choice to us. Backends that need a window are ignored."""
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
    """egl or osmesa (on a Mac, cgl): the first that works here, or the one that `MUJOCO_GL` names.

    Raises:
        RenderingUnavailable: none does.
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
        f"No offscreen rendering ({' and '.join(candidates)} tried; MUJOCO_GL chooses): on Debian and Ubuntu, "
        "`apt-get install libosmesa6` or `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` gives it."
    )


def _candidates() -> list[str]:
    """The backends that the environment's variables allow.

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


def graphics_context(width: int, height: int) -> Any:
    """An OpenGL context of mujoco's, current in this thread; its `free()` is the caller's."""
    context = importlib.import_module(f"mujoco.{offscreen_backend()}").GLContext(width, height)
    context.make_current()
    return context
