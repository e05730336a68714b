"""Runs whole steps in C (commands, physics, probes, arithmetic, ends of episodes) without the global interpreter lock.

When Python calls ``mj_step`` and ``mj_forward``, they release the lock, but take it again when they return. Threads
that do so every 40 µs lose a tenth of their time handing it over, and the arithmetic in Python holds it. With a C
compiler (``cc``, or the command in the environment variable ``CC``), the functions of all tasks are translated
(`compiler`) and compiled when an engine is made, in about a second for fifty tasks. No file is kept. Without a
compiler, `interpreted` does the same in Python, with the same results.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.native import FAILURES, compiled
from mtrl.envs.metaworld.arithmetic import FLAGS, RESULT_SIZE, TaskArithmetic, arithmetic_source
from mtrl.envs.metaworld.compiler import Untranslatable
from mtrl.envs.metaworld.episodes import Episodes
from mtrl.envs.metaworld.physics import CONTROLS, ERROR, SOUND, SUBSTEPS, UNSTABLE, TaskPhysics
from mtrl.envs.metaworld.pool import SOURCE, Job, Pool
from mtrl.envs.metaworld.probes import address_of
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, OBSERVATION_SIZE
from mtrl.envs.simulator import mujoco

logger = logging.getLogger(__name__)

_FIELDS = {
    "models": "const mjModel *const *", "datas": "mjData *const *", "bases": "double *const *",
    "targets": "const long *", "moving": "const long *", "values": "const double *", "clocks": "double *",
    "status": "signed char *", "shared": "long ", "positions": "long ", "action": "const float *",
    "constants": "const double *", "state": "double *", "result": "double *", "controls": "double *",
    "scale": "const float *", "low": "const double *", "high": "const double *", "observation": "double *",
    "terminated": "_Bool *", "truncated": "_Bool *", "success": "_Bool *", "failed": "_Bool *", "elapsed": "int64_t *",
    "last": "int64_t *", "faults": "int64_t *", "rules": "const int64_t *",
}  # fmt: skip
"""{name: C type} of a task's arrays and numbers. `arrays` of its physics, arithmetic and episodes have these names."""

_HEAD = (
    "#include <math.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <mujoco/mujoco.h>\n"
    f"enum {{ SUBSTEPS = {SUBSTEPS}, CONTROLS = {CONTROLS}, RESULT = {RESULT_SIZE}, ACTION = 4,\n"
    f"       SEEN = {OBSERVATION_SIZE}, FRAME = {CURRENT_SIZE},\n"
    f"       SOUND = {SOUND}, UNSTABLE = {UNSTABLE}, ERROR = {ERROR} }};\n"
    f"typedef struct {{ {' '.join(f'{kind}{name};' for name, kind in _FIELDS.items())} }} Task;\n"
    r"""
typedef void (*Physics)(const mjModel *model, mjData *data);
typedef void (*Handler)(const char *message);
typedef struct { Physics step, forward; Handler (*get_handler)(void); void (*set_handler)(Handler); } MuJoCo;

static __thread jmp_buf place;

static void leave(const char *message) { longjmp(place, 1); }

/* Like `Episodes.begin`: in single precision before the sum, and NaN stays NaN. Then it writes the commands and the
   copy's positions into the simulator, like `TaskPhysics.advance`. */
static void command(const Task *task, long which, long n) {
  double *controls = task->controls + n * CONTROLS;
  const float *action = task->action + n * ACTION;
  mjData *data = task->datas[n];
  for (int k = 0; k < 3; k++) {
    float move = action[k] < -1.0f ? -1.0f : action[k] > 1.0f ? 1.0f : action[k];
    move *= *task->scale;
    const double to = controls[k] + move;
    controls[k] = to < task->low[k] ? task->low[k] : to > task->high[k] ? task->high[k] : to;
  }
  controls[3] = action[3];
  controls[4] = -action[3];
  memcpy(data->mocap_pos, controls, 3 * sizeof(double));
  memcpy(data->ctrl, controls + 3, 2 * sizeof(double));
  for (long k = 0; k < *task->moving; k++)
    task->bases[which][task->targets[which * task->positions + k]] = task->values[n * task->positions + k];
}

static void advance(const MuJoCo *mujoco, const Task *task, long worker, long first, long last) {
  Handler before = mujoco->get_handler();
  mujoco->set_handler(leave);
  for (volatile long n = first; n < last; n++) {
    const long which = task->shared ? worker : n;
    mjData *data = task->datas[n];
    command(task, which, n);
    if (setjmp(place)) {
      task->status[n] = ERROR;
    } else {
      for (int s = 0; s < SUBSTEPS; s++) mujoco->step(task->models[which], data);
      mujoco->forward(task->models[which], data);
      task->status[n] = data->time > task->clocks[n] ? SOUND : UNSTABLE;
    }
    task->clocks[n] = task->datas[n]->time;
  }
  mujoco->set_handler(before);
}

/* Like `Episodes.end`, for one copy. */
static long end(const Task *task, long n) {
  double *result = task->result + n * RESULT, *seen = task->observation + n * SEEN;
  int sound = task->status[n] == SOUND;
  for (int k = 0; k < RESULT; k++) sound &= isfinite(result[k]) != 0;
  _Bool success = result[SEEN + 1] != 0.0;
  const int64_t now = ++task->elapsed[n], last = now + task->rules[1];
  if (success && last < task->last[n]) task->last[n] = last;
  if (sound) {
    memcpy(seen, result, SEEN * sizeof(double));
  } else {
    memcpy(result, seen, SEEN * sizeof(double));
    result[SEEN] = success = 0;
    task->faults[n]++;
  }
  task->success[n] = success;
  task->failed[n] = !sound;
  task->terminated[n] = success && task->rules[0];
  task->truncated[n] = !sound || now >= task->last[n];
  return task->terminated[n] || task->truncated[n];
}

/* Like `probes.is_touching`. */
static double touching(const mjData *data, int geom, int left, int right) {
  double sums[2] = {0.0, 0.0};
  for (int i = 0; i < data->ncon; i++) {
    const int *pair = data->contact[i].geom, at = data->contact[i].efc_address;
    const int pad = pair[1] == geom ? pair[0] : pair[0] == geom ? pair[1] : -1;
    if (data->nefc && (pad == left || pad == right))
      sums[pad == right] += data->efc_force[at < 0 ? data->nefc - 1 : at];
  }
  return sums[0] > 0.0 && sums[1] > 0.0;
}
"""
)

_STEP = """
long {name}_step(const MuJoCo *mujoco, const Task *task, long worker, long first, long last) {{
  long ended = 0;
  advance(mujoco, task, worker, first, last);
  for (long n = first; n < last; n++) {{
    const mjData *data = task->datas[n];
    const double row[] = {{{row}}};
    double *result = task->result + n * RESULT;
    memcpy(result + FRAME, task->observation + n * SEEN, FRAME * sizeof(double));
    {name}(row, task->constants + n * {constants}, task->action + n * ACTION, task->state + n * {latched}, result);
    ended += end(task, n);
  }}
  return ended;
}}
"""
FOLDER = Path(str(mujoco.__file__)).parent
_SYMBOLS = ("mj_step", "mj_forward", "_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn")


class CompiledSteps:
    """The tasks' compiled functions, and the threads that call them. The tasks' arrays must never be reallocated.

    Raises:
        Untranslatable, or one of `FAILURES`: the functions cannot be compiled.
    """

    def __init__(self, tasks: Sequence[tuple[TaskPhysics, TaskArithmetic]], episodes: Episodes, threads: int) -> None:
        library = compiled(_source(tasks), *FLAGS, "-pthread", f"-I{FOLDER / 'include'}")
        self._steps = [_address(getattr(library, f"{part.name}_step")) for _, part in tasks]
        self._tasks = (_Task * len(tasks))()
        self._kept = [p.arrays() | part.arrays() | episodes.arrays(t) for t, (p, part) in enumerate(tasks)]
        for task, arrays in zip(self._tasks, self._kept, strict=True):
            for name in _FIELDS:
                value = arrays[name]
                setattr(task, name, address_of(value) if isinstance(value, np.ndarray) else value)
        self._pool = Pool(library, functions().ctypes.data, threads)
        self.run, self.close = self._pool.run, self._pool.close

    def plan(self, chunks: Sequence[tuple[int, int, int]]) -> None:
        """Set what each `run` steps. A chunk (t, first, last) means the copies ``first`` to ``last`` − 1 of task t."""
        size = ctypes.sizeof(_Task)
        begin = ctypes.addressof(self._tasks)
        self._pool.plan([Job(self._steps[t], begin + t * size, first, last) for t, first, last in chunks])


def compiled_steps(
    tasks: Sequence[tuple[TaskPhysics, TaskArithmetic]], episodes: Episodes, threads: int
) -> CompiledSteps | None:
    """The compiled steps; None if the tasks cannot be compiled, for a reason that is logged."""
    try:
        return CompiledSteps(tasks, episodes, threads)
    except (*FAILURES, Untranslatable) as error:
        logger.info("Environments are stepped from Python: %s", error)
        return None


def _source(tasks: Sequence[tuple[TaskPhysics, TaskArithmetic]]) -> str:
    steps = [
        _STEP.format(
            name=part.name,
            row=", ".join(physics.layout.in_c("data")),
            constants=part.constants.shape[1],
            latched=len(part.latched),
        )
        for physics, part in tasks
    ]
    return "\n".join([arithmetic_source([part for _, part in tasks]), _HEAD, SOURCE, *steps])


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


class _Task(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p if "*" in kind else ctypes.c_long) for name, kind in _FIELDS.items()]


@functools.cache
def functions() -> Any:
    """(4,) uint64: the addresses of `_SYMBOLS`, in the library that MuJoCo's Python bindings have loaded.

    Raises:
        OSError: there is no such library, or the bindings' objects have no `_address`.
        AttributeError: the library lacks a function.
    """
    pattern = "libmujoco*.dylib" if sys.platform == "darwin" else "libmujoco.so*"
    found = sorted(FOLDER.glob(pattern))
    if not found or not hasattr(mujoco, "MjData") or not hasattr(mujoco.MjData, "_address"):  # pyright: ignore
        raise OSError("this build of mujoco has no shared library that can be called")
    library = ctypes.CDLL(str(found[0]))
    return np.array([_address(getattr(library, name)) for name in _SYMBOLS], np.uint64)
