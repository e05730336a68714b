"""Results as text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def result_table(tasks: Sequence[str], values: Mapping[str, Sequence[float]], episodes: int) -> str:
    """A line per task with each of its values, the mean over `episodes` (of an accuracy: images); then that over tasks.

    Args:
        values: name -> (T,). The first is a share in [0, 1], shown in per cent.
    """
    columns = [np.asarray(column, dtype=np.float64) for column in values.values()]
    rows = [*zip(tasks, *columns, strict=True)]
    width = max(len("task"), len("mean"), *map(len, tasks))
    head = f"{'task':<{width}}" + "".join(f"  {name:>10}" for name in values)
    rule = "-" * len(head)
    mean = _line("mean", [float(column.mean()) for column in columns], width)
    unit = "image" if "accuracy" in values else "episode"
    count = f"1 {unit}" if episodes == 1 else f"{episodes} {unit}s"
    return "\n".join(
        [head, rule, *(_line(task, row, width) for task, *row in rows), rule, f"{mean}  ({count} per task)"]
    )


def _line(name: str, values: Sequence[float], width: int) -> str:
    share, *others = values
    return f"{name:<{width}}  {100 * share:>8.0f} %" + "".join(f"  {value:>10.4g}" for value in others)
