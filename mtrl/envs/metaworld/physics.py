"""The MuJoCo side of all copies of one task.

Each copy has data of its own; models are shared, at most one for each thread, and get the few numbers in which copies
differ (of ``body_pos`` and ``site_pos``, which resets change) before each step of a copy.
"""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.native import Loop, physics_loop
from mtrl.envs.metaworld.probes import ProbeLayout, address_of, places_of
from mtrl.envs.metaworld.starts import INTEGRATION, Start, Starts

SUBSTEPS = 5
"""Physics steps per environment step, the package's frame_skip."""
CONTROLS = 5
"""Position of the mocap body (3), then the two fingers' commands."""


class Unstable(ArithmeticError):
    """MuJoCo has found numbers that are too large or not finite, and has started the state anew."""


class TaskPhysics:
    """N copies of one task.

    Args:
        starts: makes the first states; its environment's model is the first of ours.
        copies: N.
        workers: how many threads step copies of this task at once.
    """

    rows: NDArray[np.float64]
    """(N, width of the layout), which `gather` fills."""

    def __init__(self, starts: Starts, copies: int, workers: int) -> None:
        template = starts.env.model
        self._shared, self._workers = workers < copies, workers
        self.models = [template, *(template.__copy__() for _ in range(min(copies, workers) - 1))]
        self.datas = [mujoco.MjData(template) for _ in range(copies)]
        self._clocks = [0.0] * copies
        self._positions = [places_of([model.body_pos.reshape(-1), model.site_pos.reshape(-1)]) for model in self.models]
        self._starts = np.zeros((copies, self._positions[0][1].size))
        self._moving = np.zeros(0, np.bool_)
        self._values = np.zeros((copies, 0))
        self._addresses = np.array([data._address for data in self.datas], np.uint64)
        own = np.array([model._address for model in self.models], np.uint64)
        self._model_addresses = [np.repeat(model, copies) if self._shared else own for model in own]
        self._targets: list[NDArray[np.uint64]] = []
        self.layout = ProbeLayout(template, starts.spec.all_probes)
        self.rows = np.zeros((copies, self.layout.width))
        self._gather = self.layout.bind(self.datas, self.rows)
        self._commands, where = places_of([part for data in self.datas for part in (data.mocap_pos[0], data.ctrl)])
        self._command_places = where.reshape(copies, CONTROLS)
        self.state_size = mujoco.mj_stateSize(template, INTEGRATION)

    def advance(self, first: int, last: int, failed: Callable[[int, Exception], None]) -> Callable[[int], None]:
        """A function of the worker's number that steps the copies from ``first`` up to ``last``.

        Args:
            failed: called with the copy's number and `Unstable` or MuJoCo's error.
        """
        loop, copies, clocks = physics_loop(), range(first, last), self._clocks
        run = self._in_python(copies, failed) if loop is None else self._in_c(loop, copies, failed)
        datas = [(n, self.datas[n]) for n in copies]

        def advance(worker: int) -> None:
            run(worker)
            for n, data in datas:
                now = data.time
                if not now > clocks[n]:
                    failed(n, Unstable())
                clocks[n] = now

        return advance

    def _in_python(self, copies: range, failed: Callable[[int, Exception], None]) -> Callable[[int], None]:
        step, forward = mujoco.mj_step, mujoco.mj_forward

        def run(worker: int) -> None:
            memory, where = self._positions[worker if self._shared else 0]
            where = where[self._moving]
            for n in copies:
                if self._shared:
                    memory[where] = self._values[n]
                model, data = self.models[worker if self._shared else n], self.datas[n]
                try:
                    step(model, data, SUBSTEPS)
                    forward(model, data)
                except Exception as error:
                    failed(n, error)

        return run

    def _in_c(self, loop: Loop, copies: range, failed: Callable[[int, Exception], None]) -> Callable[[int], None]:
        count, first = len(copies), copies.start
        wrong = np.zeros(count, np.int8)
        models = [address_of(addresses[first:]) for addresses in self._model_addresses]
        datas, out = address_of(self._addresses[first:]), address_of(wrong)

        def run(worker: int) -> None:
            values, which = self._values, worker if self._shared else 0
            moving = values.shape[1] if self._shared else 0
            targets = address_of(self._targets[which])
            loop(count, SUBSTEPS, moving, models[which], datas, targets, address_of(values[first:]), out)
            if wrong.any():
                for n in np.flatnonzero(wrong).tolist():
                    failed(first + n, mujoco.FatalError())

        return run

    def command(self, first: int, last: int, controls: NDArray[np.float64]) -> Callable[[], None]:
        """A function that hands ``controls (N, CONTROLS)`` of the copies from ``first`` up to ``last`` to MuJoCo."""
        return functools.partial(self._commands.__setitem__, self._command_places[first:last], controls[first:last])

    def gather(self, first: int, last: int) -> Callable[[], Any]:
        """A function that reads the probes of the copies from ``first`` up to ``last``."""
        return self._gather.some(first, last)

    def begin(self, n: int, start: Start) -> None:
        """Put copy n into the first state of an episode."""
        self._starts[n] = np.concatenate([start.body_pos.reshape(-1), start.site_pos.reshape(-1)])
        self._place()
        self.set_state(n, start.physics)

    def _place(self) -> None:
        """Put bodies and sites into all models: into a shared one what all copies have in common, the rest before each
        step. All, since the first model belongs to the environment that makes starts, which changes it."""
        for m, (memory, where) in enumerate(self._positions):
            memory[where] = self._starts[0 if self._shared else m]
        self._moving = (self._starts != self._starts[0]).any(0)
        self._values = np.ascontiguousarray(self._starts[:, self._moving])
        self._targets = [
            (address_of(memory) + 8 * where[self._moving]).astype(np.uint64) for memory, where in self._positions
        ]

    def set_state(self, n: int, physics: NDArray[np.float64]) -> None:
        data = self.datas[n]
        mujoco.mj_resetData(self.models[0], data)
        mujoco.mj_setState(self.models[0], data, physics, INTEGRATION)
        self._clocks[n] = data.time

    def state(self, n: int) -> NDArray[np.float64]:
        """(P,): MuJoCo's state vector."""
        vector = np.empty(self.state_size)
        mujoco.mj_getState(self.models[0], self.datas[n], vector, INTEGRATION)
        return vector

    def states(self) -> NDArray[np.float64]:
        """(N, P)"""
        return np.stack([self.state(n) for n in range(len(self.datas))])

    def mocap(self, n: int) -> NDArray[np.float64]:
        """(3,): where the hand of copy n is pulled to."""
        return self.datas[n].mocap_pos[0]
