"""A loop of physics steps in C, so that Python's lock is left alone for a chunk of copies at a time.

``mj_step`` and ``mj_forward`` release the lock, but each takes it again when it returns, and threads that do so every
40 µs lose a tenth of their time to handing it over. Where a C compiler is found (``cc``, or what the variable ``CC``
names), these lines are compiled when first needed, in a tenth of a second, and no file is kept. Elsewhere the same
calls are made from Python, with the same results.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

logger = logging.getLogger(__name__)

_SOURCE = r"""
#include <setjmp.h>

typedef void (*Physics)(const void *model, void *data);
typedef void (*Handler)(const char *message);
typedef struct { Physics step, forward; Handler (*get_handler)(void); void (*set_handler)(Handler); } MuJoCo;

static __thread jmp_buf place;

static void leave(const char *message) { longjmp(place, 1); }

/* For each copy: store `moving` values, step, forward. `failed` tells where MuJoCo has reported an error. */
void advance(const MuJoCo *mujoco, long copies, long substeps, long moving, const void *const *models,
             void *const *datas, double *const *targets, const double *values, char *failed) {
  Handler before = mujoco->get_handler();
  mujoco->set_handler(leave);
  for (volatile long n = 0; n < copies; n++) {
    for (long k = 0; k < moving; k++) *targets[k] = values[n * moving + k];
    failed[n] = setjmp(place) != 0;
    if (failed[n]) continue;
    for (long s = 0; s < substeps; s++) mujoco->step(models[n], datas[n]);
    mujoco->forward(models[n], datas[n]);
  }
  mujoco->set_handler(before);
}
"""
_SYMBOLS = ("mj_step", "mj_forward", "_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn")

Loop = Callable[..., None]
"""``advance`` of the source, without its first argument; addresses are integers."""


@functools.cache
def physics_loop() -> Loop | None:
    """The compiled loop; nothing where it cannot be had, and the log says why."""
    try:
        table = _functions()
        library = _compiled()
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        logger.info("Physics is stepped from Python: %s", error)
        return None
    function = library.advance
    function.restype = None
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 3, *[ctypes.c_void_p] * 5]
    return functools.partial(function, table.ctypes.data)


@functools.cache
def _functions() -> Any:
    """The addresses of MuJoCo's functions, in the library that Python's bindings have loaded."""
    pattern = "libmujoco*.dylib" if sys.platform == "darwin" else "libmujoco.so*"
    found = sorted(Path(str(mujoco.__file__)).parent.glob(pattern))
    if not found or not hasattr(mujoco, "MjData") or not hasattr(mujoco.MjData, "_address"):  # pyright: ignore
        raise OSError("this build of mujoco has no library to call")
    library = ctypes.CDLL(str(found[0]))
    return np.array([ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _SYMBOLS], np.uint64)


def _compiled() -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="mtrl-") as folder:
        library = str(Path(folder, "advance.so"))
        command = [*compiler, "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", library]
        subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True, timeout=60)
        return ctypes.CDLL(library)
