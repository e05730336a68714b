"""The MuJoCo side of all copies of one task.

Each copy has data of its own; models are shared, at most one for each thread, and get the few fields that resets change
(``body_pos``, ``site_pos``) before each step of a copy.
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

from mtrl.envs.metaworld.probes import ProbeLayout, places_of
from mtrl.envs.metaworld.starts import INTEGRATION, Start, Starts

SUBSTEPS = 5
"""Physics steps per environment step, the package's frame_skip."""
CONTROLS = 5
"""Position of the mocap body (3), then the two fingers' commands."""

Advance = Callable[[int], None]


class Unstable(ArithmeticError):
    """MuJoCo has found numbers that are too large or not finite, and has started the state anew."""


class TaskPhysics:
    """N copies of one task.

    Args:
        starts: makes the first states; its environment's model is the first of ours.
        copies: N.
        workers: how many threads step copies of this task at once.
    """

    advance: list[Advance]
    """For each copy, a function of the worker's number that steps it. It raises `Unstable`."""
    rows: NDArray[np.float64]
    """(N, width of the layout), which `gather` fills."""

    def __init__(self, starts: Starts, copies: int, workers: int) -> None:
        template = starts.env.model
        self._shared, self._workers = workers < copies, workers
        self.models = [template, *(template.__copy__() for _ in range(min(copies, workers) - 1))]
        self.datas = [mujoco.MjData(template) for _ in range(copies)]
        self._clocks = [0.0] * copies
        self._body_pos = np.empty((copies, *template.body_pos.shape))
        self._site_pos = np.empty((copies, *template.site_pos.shape))
        self.layout = ProbeLayout(template, starts.spec.all_probes)
        self.rows = np.zeros((copies, self.layout.width))
        self._gather = self.layout.bind(self.datas, self.rows)
        self._commands, places = places_of([part for data in self.datas for part in (data.mocap_pos[0], data.ctrl)])
        self._places = places.reshape(copies, CONTROLS)
        self.state_size = mujoco.mj_stateSize(template, INTEGRATION)
        self.advance = [self._bind(n) for n in range(copies)]

    def _bind(self, n: int) -> Advance:
        data: Any = self.datas[n]
        body_pos, site_pos = self._body_pos[n], self._site_pos[n]
        models = [(model, model.body_pos, model.site_pos) for model in self.models]
        by_worker = models if self._shared else [models[n]] * self._workers
        step, forward, clocks = mujoco.mj_step, mujoco.mj_forward, self._clocks

        def advance(worker: int) -> None:
            model, bodies, sites = by_worker[worker]
            bodies[...] = body_pos
            sites[...] = site_pos
            step(model, data, SUBSTEPS)
            forward(model, data)
            now = data.time
            if not now > clocks[n]:
                raise Unstable
            clocks[n] = now

        return advance

    def command(self, first: int, last: int, controls: NDArray[np.float64]) -> Callable[[], None]:
        """A function that hands ``controls (N, CONTROLS)`` of the copies from ``first`` up to ``last`` to MuJoCo."""
        return functools.partial(self._commands.__setitem__, self._places[first:last], controls[first:last])

    def gather(self, first: int, last: int) -> Callable[[], None]:
        """A function that reads the probes of the copies from ``first`` up to ``last``."""
        return self._gather.some(first, last)

    def begin(self, n: int, start: Start) -> None:
        """Put copy n into the first state of an episode."""
        self._body_pos[n], self._site_pos[n] = start.body_pos, start.site_pos
        self.set_state(n, start.physics)

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
