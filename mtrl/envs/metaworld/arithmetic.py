"""Observations and rewards of the copies of one task, on arrays that the engine owns.

Two ways to the same numbers: `Vectorised` does all copies of a task at once, `OneByOne` each copy as soon as its
physics is done, which is faster for few copies (see `scalar`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.physics import TaskPhysics
from mtrl.envs.metaworld.scalar import Tracer
from mtrl.envs.metaworld.starts import Start, Starts
from mtrl.envs.metaworld.tasks.base import (
    CURRENT_SIZE,
    OBSERVATION_SIZE,
    Inputs,
    Outcome,
    RewardVersion,
    TaskSpec,
    evaluate,
    write_current,
    write_observation,
)

FloatRows = NDArray[np.float64]


@dataclass(frozen=True)
class Buffers:
    """Views of the engine's arrays for the N copies of one task."""

    action: NDArray[np.float32]
    """(N, 4), read."""
    observation: FloatRows
    """(N, 39), written."""
    outcome: FloatRows
    """(7, N), written: the fields of `Outcome`."""


class Arithmetic(Protocol):
    def begin(self, n: int, start: Start) -> None:
        """Put copy n at the first observation of an episode."""
        ...

    def memory(self) -> dict[str, FloatRows]:
        """{name: (N, ...)}: what passes from one step to the next: the last frame, and what the task has latched."""
        ...

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        """Go back to such a memory."""
        ...


def _columns(shapes: Mapping[str, tuple[int, ...]], block: Any) -> dict[str, Any]:
    """{name: view (N, *shape)} of the columns of a block (N, width); shapes are () or (k,)."""
    named, start = {}, 0
    for name, shape in shapes.items():
        named[name] = block[:, start : start + shape[0]] if shape else block[:, start]
        start += shape[0] if shape else 1
    return named


def _run(
    spec: TaskSpec, version: RewardVersion, bounds: tuple[Any, Any], inputs: Inputs, frame: Any, previous: Any
) -> Outcome:
    """One step's arithmetic: the current ``frame (N, 18)`` and the observation are written."""
    previous[...] = frame
    write_current(np, spec, inputs, frame)
    write_observation(np, frame, previous, inputs.target, *bounds, inputs.observation)
    return evaluate(np, spec, inputs, version)


class Vectorised:
    """All copies at once, with numpy."""

    def __init__(self, starts: Starts, version: RewardVersion, physics: TaskPhysics, buffers: Buffers) -> None:
        copies, spec = len(buffers.action), starts.spec
        self._spec, self._bounds, self._buffers = spec, (starts.low, starts.high), buffers
        self._version: RewardVersion = version
        self._frame, self._previous = np.zeros((2, copies, CURRENT_SIZE))
        shapes = starts.constant_shapes
        self._constants = {name: np.zeros((copies, *shape)) for name, shape in shapes.items()}
        self._state = {name: np.full(copies, np.nan) for name in spec.state}
        values = {**physics.layout.views(physics.rows), **self._constants, **self._state}
        self._inputs = Inputs(values, buffers.observation, buffers.action)

    def begin(self, n: int, start: Start) -> None:
        self._frame[n] = start.observation[:CURRENT_SIZE]
        for name, value in start.constants.items():
            self._constants[name][n] = value
        for value in self._state.values():
            value[n] = np.nan

    def evaluate(self) -> None:
        with np.errstate(all="ignore"):
            outcome = _run(self._spec, self._version, self._bounds, self._inputs, self._frame, self._previous)
        for row, term in zip(self._buffers.outcome, outcome, strict=True):
            row[...] = term

    def memory(self) -> dict[str, FloatRows]:
        return {"frame": self._frame, **self._state}

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        for name, value in self.memory().items():
            value[...] = memory[name]


class OneByOne:
    """Each copy alone, as a traced Python function.

    Args:
        terms: the fields of `Outcome` that are wanted; the others stay 0.
    """

    def __init__(
        self,
        starts: Starts,
        version: RewardVersion,
        physics: TaskPhysics,
        buffers: Buffers,
        terms: Sequence[str] = Outcome._fields,
    ) -> None:
        copies = len(buffers.action)
        self._rows, self._action = list(physics.rows), list(buffers.action)
        self._outcome = [buffers.outcome[Outcome._fields.index(name)] for name in terms]
        self._function = _scalar_code(starts, version, physics, terms)
        self._state_names = starts.spec.state
        self._state: list[tuple[float, ...]] = [()] * copies
        self._frame: list[tuple[float, ...]] = [()] * copies
        self._constants: list[list[float]] = [[]] * copies
        # Faster than assigning a tuple to a row of an array.
        self._memory = [memoryview(row).cast("B") for row in buffers.observation]
        self._pack = struct.Struct(f"{OBSERVATION_SIZE}d").pack_into

    def begin(self, n: int, start: Start) -> None:
        self._frame[n] = tuple(start.observation[:CURRENT_SIZE].tolist())
        self._constants[n] = np.concatenate([np.ravel(value) for value in start.constants.values()]).tolist()
        self._state[n] = (math.nan,) * len(self._state_names)

    def evaluate(self, n: int) -> None:
        """Raises ArithmeticError where the physics has given numbers that are not finite."""
        row = self._rows[n].tolist()
        if not math.isfinite(sum(row)):
            raise ArithmeticError("numbers that are not finite")
        self._frame[n], observation, terms, self._state[n] = self._function(
            row, self._constants[n], self._frame[n], self._action[n].tolist(), self._state[n]
        )
        self._pack(self._memory[n], 0, *observation)
        for values, term in zip(self._outcome, terms, strict=True):
            values[n] = term

    def memory(self) -> dict[str, FloatRows]:
        state = np.array(self._state).reshape(len(self._state), -1)
        return {"frame": np.array(self._frame), **dict(zip(self._state_names, state.T, strict=True))}

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        self._frame = [tuple(row) for row in memory["frame"].tolist()]
        states = [memory[name].tolist() for name in self._state_names]
        self._state = list(zip(*states, strict=True)) if states else [()] * len(self._frame)


def _scalar_code(
    starts: Starts, version: RewardVersion, physics: TaskPhysics, terms: Sequence[str]
) -> Callable[..., tuple[tuple[float, ...], ...]]:
    """(row, constants, last frame, action, state) -> (frame, observation, terms, state), of one copy."""
    spec, shapes = starts.spec, starts.constant_shapes
    state_shapes = {name: () for name in spec.state}
    width = sum(shape[0] if shape else 1 for shape in shapes.values())
    row, constants, frame, state = (
        np.ones((1, k)) for k in (physics.layout.width, width, CURRENT_SIZE, len(spec.state))
    )
    action, observation = np.ones((1, 4), np.float32), np.zeros((1, OBSERVATION_SIZE))
    tracer = Tracer({"row": row, "constant": constants, "frame": frame, "action": action, "state": state})
    values = {
        **physics.layout.views(row),
        **_columns(shapes, constants),
        **_columns(state_shapes, state),
    }
    inputs = Inputs({k: tracer.wrap(v) for k, v in values.items()}, tracer.wrap(observation), tracer.wrap(action))
    results = np.zeros((1, len(terms)))
    with np.errstate(all="ignore"):
        previous = tracer.wrap(np.zeros_like(frame))
        outcome = _run(spec, version, (starts.low, starts.high), inputs, tracer.wrap(frame), previous)
        for i, name in enumerate(terms):
            tracer.wrap(results)[:, i] = getattr(outcome, name)
    name = f"{spec.name.replace('-', '_')}_{version}"
    return tracer.function(name, (frame, observation, results, state))
