"""Results as text, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtrl.monitoring.statistics import OF_IMAGES, shown


def result_text(facts: Mapping[str, Any]) -> str:
    """The table of a `result.json`, and lines on Δ_MTL and the best evaluation during training, if there are any."""
    if not facts["tasks"]:
        return "Not evaluated (training.final_episodes=0)."
    rows = list(facts["tasks"].values())
    means = list(dict.fromkeys(key for row in rows for key in row if key.startswith("mean_")))
    means.sort(key=lambda key: key != f"mean_{facts['headline']}")
    values = {key.removeprefix("mean_"): [row.get(key, math.nan) for row in rows] for key in means}
    text = result_table(list(facts["tasks"]), values, facts["episodes"], facts.get("mean_over"))
    if (delta := facts.get("delta_mtl")) is not None:
        text += f"\nΔ_MTL: {delta:+.2f} % against single tasks."
    if (best := facts.get("best")) is not None:
        name = facts["headline"]
        value = shown(name, best[f"mean_{name}"])
        chosen = "validation" if f"mean_validation_{name}" in best else "test"
        text += f"\nBest mean {name} during training: {value} after {best['step']} steps, chosen on the {chosen} data."
    return text


def result_table(
    tasks: Sequence[str], values: Mapping[str, Sequence[float]], episodes: int, mean_over: Sequence[str] | None = None
) -> str:
    """A line with the values of each task, and a line with their means.

    Args:
        values: name -> (T,), the most important first. NaN if a task has no such value; its cell and any mean over
            it are then empty.
        episodes: the number of episodes (or images) over which each value is a mean.
        mean_over: the tasks over which the means are taken; all if not given.
    """
    columns = [np.asarray(column, dtype=np.float64) for column in values.values()]
    rows = [*zip(tasks, *columns, strict=True)]
    counted = [t for t, task in enumerate(tasks) if mean_over is None or task in mean_over]
    label = "mean" if mean_over is None else f"mean of {len(counted)}"
    width = max(len("task"), len(label), *map(len, tasks))
    head = f"{'task':<{width}}" + "".join(f"  {name:>10}" for name in values)
    rule = "-" * len(head)
    mean = _line(label, values, [float(column[counted].mean()) for column in columns], width)
    unit = "image" if any(name in OF_IMAGES for name in values) else "episode"
    count = f"1 {unit}" if episodes == 1 else f"{episodes} {unit}s"
    return "\n".join(
        [head, rule, *(_line(task, values, row, width) for task, *row in rows), rule, f"{mean}  ({count} per task)"]
    )


def _line(task: str, names: Iterable[str], values: Sequence[float], width: int) -> str:
    cells = ["" if math.isnan(value) else shown(name, value) for name, value in zip(names, values, strict=True)]
    return f"{task:<{width}}" + "".join(
        f"  {cell:>{max(10, len(name))}}" for name, cell in zip(names, cells, strict=True)
    )
