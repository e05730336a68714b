"""Observations and rewards of the copies of one task, on arrays that the engine owns, as scalar code (see `scalar`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

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
    write_current(spec, inputs, current)
    write_observation(current, previous, inputs.target, *bounds, observation)
    return evaluate(spec, inputs, version)


class TaskArithmetic:
    """Each copy alone, as soon as its physics is done.

    Args:
        action: (N, 4), read.
        result: (N, RESULT_SIZE). The last step's frame is read from its place (`PREVIOUS`); the rest is written.
        terms: how many fields of `Outcome` are wanted; the others stay 0.
    """

    def __init__(
        self,
        starts: Starts,
        version: RewardVersion,
        physics: TaskPhysics,
        action: NDArray[np.float32],
        result: FloatRows,
        terms: int,
    ) -> None:
        self.code = _scalar_code(starts, version, physics, terms)
        self.action, self.result = action, result
        self.constants = np.zeros((len(action), self.code.constants))
        self.state = np.zeros((len(action), len(starts.spec.state)))
        self._rows, self._state_names = physics.rows, starts.spec.state

    def evaluate(self, first: int, last: int) -> Callable[[], None]:
        """A function for the copies from ``first`` up to ``last``. The observation of one that fails is not finite."""
        function, latched, goal = self.code.function, self.state.shape[1], self.state.shape[1] + CURRENT_SIZE
        end = GOAL.start + self.code.size - goal
        result, state = self.result[first:last], self.state[first:last]
        reads = (self._rows, self.constants, self.action, self.result[:, PREVIOUS], self.state)
        inputs = [array[first:last].tolist for array in reads]

        def evaluate() -> None:
            for n, values in enumerate(zip(*(read() for read in inputs), strict=True)):
                try:
                    found = function(*values)
                except (ArithmeticError, ValueError):
                    result[n, 0] = np.nan
                    continue
                if latched:
                    state[n] = found[:latched]
                result[n, CURRENT] = found[latched:goal]
                result[n, GOAL.start : end] = found[goal:]

        return evaluate

    def arrays(self) -> dict[str, Any]:
        """What a step in C reads and writes; see `native`. The arrays stay where they are."""
        return {"action": self.action, "constants": self.constants, "state": self.state, "result": self.result}

    def begin(self, n: int, start: Start) -> None:
        """Put copy n at the first observation of an episode."""
        values = np.concatenate([np.ravel(value) for value in start.constants.values()]).tolist()
        self.constants[n] = self.code.prepare(values)
        self.state[n] = math.nan

    def memory(self) -> dict[str, FloatRows]:
        """{name: (N,)}: what the task has latched."""
        return dict(zip(self._state_names, self.state.T, strict=True))

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        """Go back to such a memory."""
        for name, column in zip(self._state_names, self.state.T, strict=True):
            column[...] = memory[name]


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
