"""The physics of all copies of one task, in MuJoCo.

Each copy has its own ``MjData``. With fewer threads than copies, copies share ``MjModel`` objects, one per thread.
Resets change positions of bodies and sites in a model (``body_pos``, ``site_pos``), so each step of a copy on a shared
model begins by writing into it the positions that differ between copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.probes import ProbeLayout, address_of, places_of
from mtrl.envs.metaworld.starts import INTEGRATION, Start, Starts
from mtrl.envs.simulator import mujoco

SUBSTEPS = 5
"""Physics steps per environment step: Meta-World's frame_skip."""
CONTROLS = 5
"""Size of a copy's commands: the position of the mocap body (3), then the two fingers' controls (2)."""
SOUND, UNSTABLE, ERROR = 0, 1, 2
"""The status of a copy after a step. UNSTABLE: MuJoCo found numbers that are too large or not finite, and reset the
state. ERROR: MuJoCo raised an error."""


class TaskPhysics:
    """The simulators of N copies of one task. S is the size of MuJoCo's state vector.

    Args:
        starts: makes the first states. Its environment's model is the first of the shared models.
        controls: (N, CONTROLS), read at each step.
        status: (N,), where each step writes `SOUND`, `UNSTABLE` or `ERROR`.
        workers: how many threads may step copies of this task at once.
    """

    rows: NDArray[np.float64]
    """(N, width of the layout): the probes. They are written only by steps that are taken from Python."""

    def __init__(self, starts: Starts, controls: NDArray[np.float64], status: NDArray[np.int8], workers: int) -> None:
        template, copies = starts.env.model, len(controls)
        self._shared, self._controls, self._status = workers < copies, controls, status
        self.models = [template, *(template.__copy__() for _ in range(min(copies, workers) - 1))]
        self.datas = [mujoco.MjData(template) for _ in range(copies)]
        self._clocks = np.zeros(copies)
        self._places = [places_of([model.body_pos.reshape(-1), model.site_pos.reshape(-1)]) for model in self.models]
        self._starts = np.zeros((copies, self._places[0][1].size))
        # In `_values` and `_targets`, only the first `_moving` columns are used: positions in which copies differ.
        self._moving = np.zeros(1, np.int64)
        self._values, self._targets = self._starts.copy(), np.zeros((len(self.models), self._starts.shape[1]), np.intp)
        self.layout = ProbeLayout(template, starts.spec.all_probes)
        self.rows = np.zeros((copies, self.layout.width))

    def advance(self, first: int, last: int) -> Callable[[int], None]:
        """A function of the worker's index that steps copies ``first`` to ``last`` − 1 and reads their probes.

        `native` does the same in C.
        """
        step, forward, clocks, status = mujoco.mj_step, mujoco.mj_forward, self._clocks, self._status
        gather = self.layout.gatherer(self.datas[first:last], self.rows[first:last])
        copies = [
            (n, data, data.mocap_pos[0], self._controls[n, :3], data.ctrl, self._controls[n, 3:])
            for n, data in enumerate(self.datas[first:last], first)
        ]

        def advance(worker: int) -> None:
            for n, data, mocap, place, fingers, commands in copies:
                which = worker if self._shared else n
                mocap[:], fingers[:] = place, commands
                if self._shared:
                    self._move(which, n)
                try:
                    step(self.models[which], data, SUBSTEPS)
                    forward(self.models[which], data)
                    status[n] = SOUND if data.time > clocks[n] else UNSTABLE
                except mujoco.FatalError:
                    status[n] = ERROR
                clocks[n] = data.time
            gather()

        return advance

    def _move(self, which: int, n: int) -> None:
        """Write copy n's positions of bodies and sites into a shared model."""
        (memory, _), moving = self._places[which], self._moving[0]
        memory[self._targets[which, :moving]] = self._values[n, :moving]

    def arrays(self) -> dict[str, Any]:
        """What a step in C reads and writes (see `native`). The arrays are never reallocated."""
        models, datas = (np.array([part._address for part in parts], np.uint64) for parts in (self.models, self.datas))
        bases = np.array([address_of(memory) for memory, _ in self._places], np.uint64)
        return {
            "models": models, "datas": datas, "bases": bases, "targets": self._targets, "moving": self._moving,
            "values": self._values, "clocks": self._clocks, "status": self._status,
            "shared": int(self._shared), "positions": self._starts.shape[1],
        }  # fmt: skip

    def begin(self, n: int, start: Start) -> None:
        """Put copy n into the first state of an episode."""
        self._starts[n] = np.concatenate([start.body_pos.reshape(-1), start.site_pos.reshape(-1)])
        self.place()
        self.set_state(n, start.physics)

    def place(self) -> None:
        """Write positions of bodies and sites into all models, also into the first, which `Starts` may have changed.

        Shared models get the positions of copy 0. Those in which copies differ are written again before each step.
        """
        for m, (memory, where) in enumerate(self._places):
            memory[where] = self._starts[0 if self._shared else m]
        if self._shared:
            moving = (self._starts != self._starts[0]).any(0)
            count = self._moving[0] = moving.sum()
            self._values[:, :count] = self._starts[:, moving]
            for (_, where), targets in zip(self._places, self._targets, strict=True):
                targets[:count] = where[moving]

    def set_state(self, n: int, physics: NDArray[np.float64]) -> None:
        """Set copy n's state vector (S,)."""
        data = self.datas[n]
        mujoco.mj_resetData(self.models[0], data)
        mujoco.mj_setState(self.models[0], data, physics, INTEGRATION)
        self._clocks[n] = data.time

    def state(self, n: int, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(S,): copy n's state vector, in the first S numbers of `out` if given."""
        size = mujoco.mj_stateSize(self.models[0], INTEGRATION)
        vector = np.empty(size) if out is None else out[:size]
        mujoco.mj_getState(self.models[0], self.datas[n], vector, INTEGRATION)
        return vector

    def states(self) -> NDArray[np.float64]:
        """(N, S): the state vectors of all copies."""
        return np.stack([self.state(n) for n in range(len(self.datas))])

    def positions(self, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The positions of copy n's bodies (bodies, 3) and sites (sites, 3), relative to their parents."""
        bodies, sites = np.split(self._starts[n], [self.models[0].body_pos.size])
        return bodies.reshape(-1, 3), sites.reshape(-1, 3)

    def mocap(self, n: int) -> NDArray[np.float64]:
        """(3,): the position to which copy n's hand is pulled."""
        return self.datas[n].mocap_pos[0]
