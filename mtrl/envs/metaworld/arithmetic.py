"""Observations and rewards of the copies of one task, on arrays that the engine owns.

Two ways to the same numbers: `Vectorised` does all copies of a task at once, `OneByOne` each copy as soon as its
physics is done, which is faster for few copies (see `scalar`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.physics import TaskPhysics
from mtrl.envs.metaworld.scalar import Scalar, Tracer
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

RESULT_SIZE = OBSERVATION_SIZE + len(Outcome._fields)
"""An observation, then the fields of `Outcome`."""
CURRENT, PREVIOUS, GOAL = slice(CURRENT_SIZE), slice(CURRENT_SIZE, 2 * CURRENT_SIZE), slice(2 * CURRENT_SIZE, None)
"""The parts of an observation."""
FloatRows = NDArray[np.float64]


@dataclass(frozen=True)
class Buffers:
    """Views of the engine's memory for the N copies of one task."""

    action: NDArray[np.float32]
    """(N, 4), read."""
    actions: list[list[float]]
    """The same, of all tasks, as the engine's list: copy n of this task is at ``first + n``."""
    first: int
    result: FloatRows
    """(N, RESULT_SIZE). The last step's frame is read from its place (`PREVIOUS`), which may be overwritten; the rest
    is written."""


class Arithmetic(Protocol):
    def begin(self, n: int, start: Start) -> None:
        """Put copy n at the first observation of an episode."""
        ...

    def memory(self) -> dict[str, FloatRows]:
        """{name: (N,)}: what the task has latched."""
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


def _run(spec: TaskSpec, version: RewardVersion, bounds: tuple[Any, Any], inputs: Inputs) -> Outcome:
    """One step's arithmetic. The observation holds the last frame, clipped, and is written."""
    observation = inputs.observation
    current, previous = observation[..., CURRENT], observation[..., PREVIOUS]
    write_current(np, spec, inputs, current)
    write_observation(np, current, previous, inputs.target, *bounds, observation)
    return evaluate(np, spec, inputs, version)


class Vectorised:
    """All copies at once, with numpy."""

    def __init__(self, starts: Starts, version: RewardVersion, physics: TaskPhysics, buffers: Buffers) -> None:
        copies, spec = len(buffers.action), starts.spec
        self._spec, self._bounds, self._result = spec, (starts.low, starts.high), buffers.result
        self._version: RewardVersion = version
        shapes = starts.constant_shapes
        self._constants = {name: np.zeros((copies, *shape)) for name, shape in shapes.items()}
        self._state = {name: np.full(copies, np.nan) for name in spec.state}
        values = {**physics.layout.views(physics.rows), **self._constants, **self._state}
        self._inputs = Inputs(values, buffers.result[:, :OBSERVATION_SIZE], buffers.action)

    def begin(self, n: int, start: Start) -> None:
        for name, value in start.constants.items():
            self._constants[name][n] = value
        for value in self._state.values():
            value[n] = np.nan

    def evaluate(self) -> None:
        with np.errstate(all="ignore"):
            outcome = _run(self._spec, self._version, self._bounds, self._inputs)
        for i, term in enumerate(outcome, OBSERVATION_SIZE):
            self._result[:, i] = term

    def memory(self) -> dict[str, FloatRows]:
        return dict(self._state)

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        for name, value in self._state.items():
            value[...] = memory[name]


class OneByOne:
    """Each copy alone, as a traced Python function.

    Args:
        terms: how many fields of `Outcome` are wanted; the others stay 0.
    """

    def __init__(
        self, starts: Starts, version: RewardVersion, physics: TaskPhysics, buffers: Buffers, terms: int
    ) -> None:
        copies = len(buffers.action)
        self._code = _scalar_code(starts, version, physics, terms)
        self._rows, self._buffers = physics.rows, buffers
        self._state_names = starts.spec.state
        self._state: list[tuple[float, ...]] = [()] * copies
        self._constants: list[tuple[float, ...]] = [()] * copies
        # Faster than assigning a tuple to a row of an array. The last frame becomes zeros.
        goal = OBSERVATION_SIZE - 2 * CURRENT_SIZE
        self._pack = struct.Struct(f"{CURRENT_SIZE}d{8 * CURRENT_SIZE}x{goal + terms}d").pack_into
        self._out = [memoryview(row).cast("B") for row in buffers.result]

    def evaluate(self, first: int, last: int) -> Callable[[], None]:
        """A function for the copies from ``first`` up to ``last``. The observation of one that fails is not finite."""
        pack, function, read = self._pack, self._code.function, self._rows[first:last].tolist
        constants, actions, result = self._constants, self._buffers.actions, self._buffers.result
        copies = [(n, self._buffers.first + n, self._out[n]) for n in range(first, last)]
        latching, state = bool(self._code.reads & {"previous", "state"}), self._state
        previous, latched = [row[PREVIOUS].tolist for row in result], len(self._state_names)

        def evaluate() -> None:
            for (n, i, out), row in zip(copies, read(), strict=True):
                try:
                    if latching:
                        values = function(row, constants[n], actions[i], previous[n](), state[n])
                        state[n] = values[:latched]
                        pack(out, 0, *values[latched:])
                    else:
                        pack(out, 0, *function(row, constants[n], actions[i], (), ()))
                except (ArithmeticError, ValueError):
                    result[n, 0] = np.nan

        return evaluate

    def begin(self, n: int, start: Start) -> None:
        values = np.concatenate([np.ravel(value) for value in start.constants.values()]).tolist()
        self._constants[n] = self._code.prepare(values)
        self._state[n] = (math.nan,) * len(self._state_names)

    def memory(self) -> dict[str, FloatRows]:
        state = np.array(self._state).reshape(len(self._state), -1)
        return dict(zip(self._state_names, state.T, strict=True))

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        states = [memory[name].tolist() for name in self._state_names]
        self._state[:] = list(zip(*states, strict=True)) if states else [()] * len(self._state)


def _scalar_code(starts: Starts, version: RewardVersion, physics: TaskPhysics, terms: int) -> Scalar:
    """(row, constants, action, last frame, state) -> state, current frame, goal, outcome, of one copy."""
    spec, shapes = starts.spec, starts.constant_shapes
    width = sum(shape[0] if shape else 1 for shape in shapes.values())
    row, constants, state = (np.ones((1, k)) for k in (physics.layout.width, width, len(spec.state)))
    action, observation = np.ones((1, 4), np.float32), np.zeros((1, OBSERVATION_SIZE))
    previous = observation[:, PREVIOUS]
    tracer = Tracer({"row": row, "constant": constants, "action": action, "previous": previous, "state": state})
    values = {
        **physics.layout.views(row),
        **_columns(shapes, constants),
        **_columns({name: () for name in spec.state}, state),
    }
    inputs = Inputs({k: tracer.wrap(v) for k, v in values.items()}, tracer.wrap(observation), tracer.wrap(action))
    results = np.zeros((1, terms))
    with np.errstate(all="ignore"):
        outcome = _run(spec, version, (starts.low, starts.high), inputs)
        for i, term in enumerate(outcome[:terms]):
            tracer.wrap(results)[:, i] = term
    name = f"{spec.name.replace('-', '_')}_{version}"
    return tracer.function(name, (state, observation[:, CURRENT], observation[:, GOAL], results))
