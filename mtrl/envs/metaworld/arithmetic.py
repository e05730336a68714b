"""Computes observations and rewards for the copies of one task, on arrays that the engine owns."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.compiler import DOUBLE, SINGLE, Object, Program, Tuple, Value, c_name, static
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, OBSERVATION_SIZE, RewardVersion, TaskSpec, evaluate
from mtrl.envs.metaworld.tasks.state import Outcome, State

RESULT_SIZE = OBSERVATION_SIZE + len(Outcome._fields)
"""A result is an observation (39: current frame, previous frame, goal), followed by the fields of `Outcome`."""
CURRENT, PREVIOUS = slice(CURRENT_SIZE), slice(CURRENT_SIZE, 2 * CURRENT_SIZE)
"""The places of the two frames in a result."""
GOAL = 2 * CURRENT_SIZE
"""The index of the goal's first number in a result."""
COMMAND = 3
"""The index of the gripper's command in an action."""
FloatRows = NDArray[np.float64]
Columns = Mapping[str, tuple[int, int]]
"""{name: (its first column, its size; 0 for a single number)}"""
FLAGS = ("-O1", "-ffp-contract=off")
"""Compiler flags. The second forbids fused multiply-adds, which would round once where Python rounds twice."""
_ARITHMETIC = """
void {name}(const double *row, const double *constant, const float *action, double *memory, double *result) {{
  State state, *s = &state;
  s->command = action[{command}];
  memcpy(&s->previous, result + {current}, {current} * sizeof(double));
  {reads}
  const {outcome} outcome = {call};
  {writes}
  memcpy(result, &s->observation, {current} * sizeof(double));
  memcpy(result + {goal}, &s->goal, 3 * sizeof(double));
  memcpy(result + {goal} + 3, &outcome, {terms} * sizeof(double));
}}
"""


def columns(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Columns, int]:
    """Assign consecutive places in a row to values of shapes () and (k,). Returns them and the row's width."""
    found, start = {}, 0
    for name, shape in shapes.items():
        found[name] = (start, shape[0] if shape else 0)
        start += shape[0] if shape else 1
    return found, start


def filler(places: Columns) -> Callable[[State, list[float]], None]:
    """A function that sets a state's attributes from the numbers of a row."""
    names = tuple(places)
    parts = [slice(start, start + size) if size else start for start, size in places.values()]
    get = operator.itemgetter(*parts)

    def fill(state: State, row: list[float]) -> None:
        vars(state).update(zip(names, get(row), strict=False))

    return fill


class TaskArithmetic:
    """The observations and rewards of the N copies of a task. Each copy is evaluated by itself, after its physics.

    Args:
        spec: the task.
        version: the reward's version, v1 or v2.
        probes: the columns of ``rows`` that hold the task's probes, which are numbers read from the simulator.
        shapes: the shapes of the task's constants, each () or (k,).
        rows: (N, width), the values of the probes. Only `evaluate` reads them; C reads the simulator itself.
        action: (N, 4), read.
        result: (N, RESULT_SIZE). The frame of the last step (`PREVIOUS`) is read; the rest is written.
        terms: how many fields of `Outcome` are stored, from the first on; the others stay 0.
    """

    def __init__(
        self,
        spec: TaskSpec,
        version: RewardVersion,
        probes: Columns,
        shapes: Mapping[str, tuple[int, ...]],
        rows: FloatRows,
        action: NDArray[np.float32],
        result: FloatRows,
        terms: int = len(Outcome._fields),
    ) -> None:
        self.name = f"{spec.name.replace('-', '_')}_{version}"
        self.objects, self.reward, self.latched = spec.objects, spec.reward(version), spec.state
        self.probes, self.rows, self.action, self.result, self.terms = probes, rows, action, result, terms
        self.constant_columns, width = columns(shapes)
        self._fill_constants = filler(self.constant_columns)
        self.constants = np.zeros((len(rows), width))
        self.state = np.zeros((len(rows), len(self.latched)))
        self._states = [State() for _ in rows]
        for state, row in zip(self._states, result, strict=True):
            state.previous = row[PREVIOUS]

    def evaluate(self, first: int, last: int) -> Callable[[], None]:
        """A function that evaluates copies ``first`` to ``last`` − 1. `native` does the same in C.

        If the evaluation of a copy fails, its observation starts with NaN, and the engine counts the copy as failed.
        """
        objects, reward, latched, terms = self.objects, self.reward, self.latched, self.terms
        fill, rows, commands = filler(self.probes), self.rows[first:last], self.action[first:last, COMMAND]
        memory, end = self.state[first:last], GOAL + 3 + terms
        copies = [
            (s, row[CURRENT], row[GOAL:end])
            for s, row in zip(self._states[first:last], self.result[first:last], strict=True)
        ]

        def evaluate_all() -> None:
            for (s, frame, rest), row, s.command in zip(copies, rows.tolist(), commands, strict=True):
                fill(s, row)
                try:
                    outcome = evaluate(objects, reward, s)
                except (ArithmeticError, ValueError):
                    frame[0] = math.nan
                else:
                    frame[:] = s.observation
                    rest[:] = (*s.goal, *outcome[:terms])
            if latched:
                memory[:] = [[getattr(s, name) for name in latched] for s, *_ in copies]

        return evaluate_all

    def arrays(self) -> dict[str, Any]:
        """The arrays that a step in C reads and writes (see `native`). They are never reallocated."""
        return {"action": self.action, "constants": self.constants, "state": self.state, "result": self.result}

    def begin(self, n: int, constants: Mapping[str, FloatRows]) -> None:
        """Begin an episode of copy n, given its constants. The numbers that the task keeps become NaN."""
        self.constants[n] = np.concatenate([np.ravel(value) for value in constants.values()])
        self.state[n] = math.nan
        self._fill_constants(self._states[n], self.constants[n].tolist())
        self._recall(n)

    def memory(self) -> dict[str, FloatRows]:
        """{name: (N,)}: the numbers that the task keeps from step to step, as views, which the next step changes."""
        return dict(zip(self.latched, self.state.T, strict=True))

    def remember(self, memory: Mapping[str, FloatRows]) -> None:
        """Restore numbers that `memory` has returned."""
        for name, column in zip(self.latched, self.state.T, strict=True):
            column[...] = memory[name]
        for n in range(len(self._states)):
            self._recall(n)

    def _recall(self, n: int) -> None:
        vars(self._states[n]).update(zip(self.latched, self.state[n].tolist(), strict=True))


def arithmetic_source(parts: Sequence[TaskArithmetic]) -> str:
    """C source with a function for each part, which has the part's name and evaluates one copy.

    Raises `Untranslatable` if a task uses something that has no translation.
    """
    state = Object("State", {"command": SINGLE, "previous": Tuple((DOUBLE,) * CURRENT_SIZE)})
    program, functions = Program(state), list[str]()
    for part in parts:
        memory = {name: (i, 0) for i, name in enumerate(part.latched)}
        places = (("row", part.probes), ("constant", part.constant_columns), ("memory", memory))
        reads = [line for row, of in places for line in _reads(state, row, of)]
        outcome = program.call(evaluate, [static(part.objects), static(part.reward), Value(state, "s")], {})
        functions.append(
            _ARITHMETIC.format(
                name=part.name,
                reads="\n  ".join(reads),
                outcome=c_name(outcome.type),
                call=outcome.code,
                writes=" ".join(f"memory[{i}] = s->{name};" for name, (i, _) in memory.items()),
                command=COMMAND,
                current=CURRENT_SIZE,
                goal=GOAL,
                terms=part.terms,
            )
        )
    return "\n".join(["#include <string.h>", program.source(), *functions])


def _reads(state: Object, row: str, places: Columns) -> list[str]:
    """Assignments of a row's numbers to the state's fields."""
    lines = []
    for name, (start, size) in places.items():
        kind = Tuple((DOUBLE,) * size) if size else DOUBLE
        state.declare(name, kind)
        numbers = ", ".join(f"{row}[{i}]" for i in range(start, start + max(size, 1)))
        lines.append(f"s->{name} = ({kind.name}){{{numbers}}};")
    return lines
