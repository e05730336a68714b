"""Learning curves as arrays, from the rows of one run or of several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mtrl.core.errors import expected
from mtrl.monitoring.drawing import SECONDS, FloatArray, Row


def curves(
    rows: Sequence[Row], tasks: Sequence[str], name: str, required: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Steps (K,) and values (T, K) of a per-task metric. A null becomes NaN; rows with only nulls are left out.

    Raises:
        UserError: the metric is `required`, and no row has it for every task.
    """
    keys = [f"{name}/{task}" for task in tasks]
    found = [row for row in rows if all(key in row for key in keys)] if keys else []
    if not found and required:
        raise expected("Metrics", f"rows with '{name}/<task>' for every task", f"{len(rows)} rows without")
    found = [row for row in found if any(row[key] is not None for key in keys)]
    steps = np.array([row["step"] for row in found], dtype=np.float64)
    return steps, np.array([[row[key] for row in found] for key in keys], dtype=np.float64)


def tasks_of(seeds: Iterable[Sequence[Row]], name: str) -> list[str]:
    """The tasks for which the rows have a metric."""
    keys = dict.fromkeys(key for rows in seeds for row in rows for key in row if key.startswith(f"{name}/"))
    return [key.removeprefix(f"{name}/") for key in keys]


def by_minute(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows that record the training time, with minutes in place of their steps."""
    for row in rows:
        if SECONDS in row:
            yield {**row, "step": row[SECONDS] / 60}


def stack(label: str, seeds: Sequence[Sequence[Row]], name: str) -> tuple[FloatArray, FloatArray]:
    """K steps in the range common to all seeds, and the seeds' curves (seeds, tasks, K), interpolated at these steps.

    Raises:
        UserError: a seed has no values, or there is no step at which all seeds and tasks have some.
    """
    tasks = tasks_of(seeds, name)
    parts = [curves(rows, tasks, name) for rows in seeds]
    if not tasks or not all(len(steps) for steps, _ in parts):
        raise expected(f"Metrics of {label}", f"rows with '{name}/<task>'", "none")
    first, last = max(steps[0] for steps, _ in parts), min(steps[-1] for steps, _ in parts)
    grid = np.unique(np.concatenate([steps for steps, _ in parts]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not grid.size:
        raise expected(f"Seeds of {label}", "evaluated over a common range of steps", "none")
    scores = np.array([[_interpolated(grid, steps, row) for row in values] for steps, values in parts])
    known = np.isfinite(scores).all((0, 1))
    if not known.any():
        raise expected(f"Seeds of {label}", "with an episode of every task", "none so far")
    return grid[known], scores[..., known]


def _interpolated(grid: FloatArray, steps: FloatArray, values: FloatArray) -> FloatArray:
    """The values interpolated at the grid's steps from the known ones; NaN before the first."""
    known = np.isfinite(values)
    return np.interp(grid, steps[known], values[known], left=np.nan) if known.any() else np.full(grid.shape, np.nan)
