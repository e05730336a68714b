"""Results as text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def success_table(tasks: Sequence[str], success: Sequence[float], returns: Sequence[float], episodes: int) -> str:
    """A line per task with its success rate in [0, 1] and return, each the mean over `episodes`, and their mean."""
    width = max(len("task"), len("mean"), *map(len, tasks))
    rule = "-" * (width + 22)
    lines = [_line(task, rate, value, width) for task, rate, value in zip(tasks, success, returns, strict=True)]
    mean = _line("mean", float(np.mean(success)), float(np.mean(returns)), width)
    head = f"{'task':<{width}}  {'success':>8}  {'return':>10}"
    count = "1 episode" if episodes == 1 else f"{episodes} episodes"
    return "\n".join([head, rule, *lines, rule, f"{mean}  ({count} per task)"])


def _line(name: str, success: float, value: float, width: int) -> str:
    return f"{name:<{width}}  {100 * success:>6.0f} %  {value:>10.1f}"
