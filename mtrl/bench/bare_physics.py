"""The physics of an engine's steps and nothing else, in C: `mtrl bench envs` compares the engine's speed with it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtrl.core.native import FAILURES, compiled
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.native import FOLDER, functions
from mtrl.envs.metaworld.physics import CONTROLS, SUBSTEPS
from mtrl.envs.metaworld.starts import INTEGRATION
from mtrl.envs.metaworld.workers import Workers
from mtrl.envs.simulator import mujoco

_SOURCE = (
    "#include <string.h>\n#include <mujoco/mujoco.h>\n"
    f"enum {{ SUBSTEPS = {SUBSTEPS}, CONTROLS = {CONTROLS} }};\n"
    r"""
typedef void (*Physics)(const mjModel *model, mjData *data);

void run(const Physics *physics, const mjModel *const *models, mjData *const *datas, const double *commands, long steps,
         long copies, long first, long last) {
  for (long s = 0; s < steps; s++)
    for (long n = first; n < last; n++) {
      const double *command = commands + (s * copies + n) * CONTROLS;
      mjData *data = datas[n];
      memcpy(data->mocap_pos, command, 3 * sizeof(double));
      memcpy(data->ctrl, command + 3, 2 * sizeof(double));
      for (int k = 0; k < SUBSTEPS; k++) physics[0](models[n], data);
      physics[1](models[n], data);
    }
}
"""
)


def _library() -> ctypes.CDLL:
    return compiled(_SOURCE, "-O3", f"-I{FOLDER / 'include'}")


def can_run() -> bool:
    """Whether there is a C compiler, and MuJoCo's library can be called from C."""
    try:
        _library()
        functions()
    except FAILURES:
        return False
    return True


class BarePhysics:
    """T × N copies that start from an engine's states and repeat its commands.

    Each thread steps its own fixed share of the copies, one after the other, and never waits for another thread. The
    copies of a task share one model, with bodies placed as in one of the engine's copies.

    Args:
        envs: the engine.
        whole: use Meta-World's models, which include visuals, in place of ours.
    """

    def __init__(self, envs: BatchedEnvs, whole: bool = False) -> None:
        self._workers = Workers(envs.threads)
        models = [
            whole_model(task) if whole else p.models[0].__copy__()
            for task, p in zip(envs.tasks, envs.physics, strict=True)
        ]
        self._copies = [
            (model, mujoco.MjData(model), physics, n)
            for model, physics in zip(models, envs.physics, strict=True)
            for n in range(envs.envs_per_task)
        ]
        addresses = [(model._address, data._address) for model, data, *_ in self._copies]
        self._models, self._datas = np.array(addresses, np.uint64).T.copy()
        self.datas = [data for _, data, *_ in self._copies]
        self._run = _library().run
        self._run.restype = None
        self._run.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_long] * 4]

    def copy_states(self) -> None:
        """Copy the engine's states."""
        for model, data, physics, n in self._copies:
            ours = physics.models[0]
            model.body_pos, model.site_pos, model.eq_data = ours.body_pos, ours.site_pos, ours.eq_data
            mujoco.mj_setState(model, data, physics.state(n), INTEGRATION)

    def run(self, commands: Sequence[NDArray[np.float64]]) -> float:
        """Repeat steps with ``commands``, each of shape (T, N, CONTROLS), like `BatchedEnvs.controls`.

        Returns environment steps per second: all steps divided by the mean time of the threads.
        """
        given, copies = np.ascontiguousarray(commands, np.float64), len(self._copies)
        arrays = [array.ctypes.data for array in (functions(), self._models, self._datas, given)]
        edges = np.linspace(0, copies, self._workers.count + 1).round().astype(int).tolist()
        seconds = np.zeros(self._workers.count)

        def work(part: int, _: int) -> None:
            begin = time.perf_counter()
            self._run(*arrays, len(given), copies, edges[part], edges[part + 1])
            seconds[part] = time.perf_counter() - begin

        self._workers.run(work, range(self._workers.count))
        return len(commands) * copies / float(seconds.mean())

    def close(self) -> None:
        self._workers.close()
