"""What runs have logged about their tasks' gradients: conflicts, cosines and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mtrl.core.errors import UserError
from mtrl.monitoring import plots_report
from mtrl.monitoring.curves import curves, tasks_of
from mtrl.monitoring.drawing import Row
from mtrl.monitoring.plots_methods import matrices, parts_of
from mtrl.report.method import Method

_SAME = 1e-6
"""Weights that differ from 1 by at most this count as equal weights, and are not drawn."""


def of(methods: Sequence[Method]) -> dict[str, Any]:
    """Pictures of conflicts and cosines, matrices of mean cosines for each method, and pictures of weights."""
    return {"pairs": _pairs(methods), "matrices": _matrices(methods), "weights": _weights(methods)}


def _pairs(methods: Sequence[Method]) -> list[tuple[str, Markup]]:
    """For each network, a picture of the share of conflicting pairs and one of the mean cosine, with a line per run."""
    pictures = []
    share, cosine = (-0.03, 1.03), (-1.03, 1.03)
    kinds = {"conflicts": ("conflicting pairs of tasks", share), "cosine": ("mean cosine of pairs of tasks", cosine)}
    logged = {part for method in methods for rows in method.rows for part in _parts(rows, "cosine")}
    for part in sorted(logged, reverse=True):
        for kind, (title, limits) in kinds.items():
            # Where tasks are goals, `conflict`, one number for all pairs, replaces the matrix `conflicts`.
            named = (f"{part}{kind}", f"{part}{kind.removesuffix('s')}")
            each = [(m.place, rows) for m in methods for rows in m.rows]
            name = next((name for name in named if any(name in row for _, rows in each for row in rows)), "")
            runs = [(place, rows) for place, rows in each if any(_tells_of_pairs(row.get(name)) for row in rows)]
            if runs:
                pictures.append((f"{_title(part)}{title}", Markup(plots_report.pairs(runs, name, limits))))
    return pictures


def _tells_of_pairs(value: Any) -> bool:
    """Whether a logged value is one number for all pairs, or a matrix of at least two tasks."""
    return len(value) > 1 if isinstance(value, list) else value is not None


def _matrices(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """For each method and network, the cosines' means over training, from the method's first run that has cosines."""
    found = []
    for method in methods:
        run = next((rows for rows in method.rows if _parts(rows, "cosine")), None)
        for part in _parts(run or [], "cosine"):
            mean = matrices(run or [], f"{part}cosine")[1].mean(0)
            if mean.ndim == 2 and len(mean) > 1:
                names = _names(run or [], part, len(mean))
                rows = [(name, np.round(row, 2).tolist()) for name, row in zip(names, mean, strict=True)]
                found.append({"title": f"{_title(part)}{method.label}", "names": names, "rows": rows})
    return found


def _names(rows: Sequence[Row], part: str, number: int) -> list[str]:
    """The names of a matrix's tasks, from other metrics of the same network; numbered if there are none."""
    for metric in (f"{part}task_grad_norm", f"{part}weight", f"{part}loss"):
        names = tasks_of([rows], metric)
        if len(names) == number:
            return names
    return [f"task {k + 1}" for k in range(number)]


def _weights(methods: Sequence[Method]) -> dict[str, Any]:
    """Pictures of weights from each method's first run that has them, and the methods whose weights stay equal."""
    pictures, equal = [], []
    for method in methods:
        run = next((rows for rows in method.rows if any("weight/" in key for row in rows for key in row)), [])
        moved = False
        for metric in dict.fromkeys(key[: key.index("weight/") + 6] for row in run for key in row if "weight/" in key):
            tasks = tasks_of([run], metric)
            _, values = curves(run, tasks, metric, required=False)
            if values.size and np.nanmax(np.abs(values - 1.0)) > _SAME:
                moved = True
                picture = Markup(plots_report.weights(run, tasks, metric))
                looks = [(task, *look) for task, look in zip(tasks, plots_report.task_looks(len(tasks)), strict=False)]
                pictures.append((f"{_title(metric.removesuffix('weight'))}{method.label}", picture, looks))
        if run and not moved:
            equal.append(method.label)
    return {"pictures": pictures, "equal": equal}


def _parts(rows: Sequence[Row], name: str) -> list[str]:
    try:
        return parts_of(rows, name, "")
    except UserError:
        return []


def _title(part: str) -> str:
    return f"{part.rstrip('/')}: " if part else ""
