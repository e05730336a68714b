"""Variables that say how to draw never stop what draws nothing; what draws names the variable that is wrong."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtrl.envs import offscreen

BACKENDS = ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"]
STEP = """
import mtrl.envs.keyframes, mtrl.envs.pushing, gymnasium
from mtrl.envs.metaworld.vector import MetaWorldVectorEnv
envs = MetaWorldVectorEnv("mt1", task="reach-v3", threads=1)
envs.reset()
assert envs.step(envs.action_space.sample())[1].shape == (1,)
from mtrl.envs.offscreen import offscreen_backend
try:
    offscreen_backend()
except Exception as error:
    print(error)
"""


def run(code: str, **variables: str) -> str:
    """What a program prints under these variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    environment = inherited | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_are_drawn_whatever_backend_a_notebook_names(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    code = f"from mtrl.monitoring import plots; plots.matrix([[1.0]], ['a'], 't', {str(path)!r})"
    run(code, MPLBACKEND=backend)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUJOCO_GL": "foo"}, "MUJOCO_GL should be egl or osmesa, or not set. Found 'foo'"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}, "PYOPENGL_PLATFORM should be egl, or not set"),
    ],
)
def test_a_wrong_variable_is_named_by_what_draws_alone(variables: dict[str, str], message: str) -> None:
    assert message in run(STEP, **variables)


def test_a_renderer_that_is_absent_stops_no_import(tmp_path: Path) -> None:
    """As where OSMesa is not installed: mujoco raises while it is imported."""
    (tmp_path / "OpenGL.py").write_text("raise ImportError('no OSMesa')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert "MUJOCO_GL chooses" in run(STEP, MUJOCO_GL="osmesa", PYTHONPATH=path)


def test_python_collects_garbage_again_after_a_context_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("the context is lost")

    monkeypatch.setattr(offscreen, "offscreen_backend", lambda: "egl")
    found = SimpleNamespace(GLContext=lambda *_: SimpleNamespace(make_current=lost))
    monkeypatch.setattr(importlib, "import_module", lambda _: found)
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="lost"), offscreen.OffscreenContext(8, 8):
        pass
    assert gc.isenabled()
