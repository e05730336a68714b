"""Early stopping of the trials of a sweep by asynchronous successive halving, from the rows of their metrics.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), in the form that stops trials: one is
compared at its steps r, rη, rη², ... with all that have got there before, and goes on if it is among the best 1/η of
them. What is decided follows from the rows alone, so that nothing else is kept: the same sweep, started again, judges
each trial against all rows there are by then, and goes on with those that are among the best now.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any


class ASHA:
    """The values of trials at the rungs; larger ones are better.

    Args:
        metric: the name of a row's value.
        first: r, steps.
        keep: η, the share of trials that go on is 1/η.
    """

    def __init__(self, metric: str, first: int, keep: int) -> None:
        self._metric, self._first, self._keep = metric, first, keep
        self._values: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def add(self, trial: int, row: Mapping[str, Any]) -> None:
        """Take a row of a trial, by its number. Of each rung, the first row at or after it counts."""
        value = row.get(self._metric)
        if value is None:
            return
        rung = 0
        while row["step"] >= self._first * self._keep**rung:
            self._values[rung].setdefault(trial, float(value))
            rung += 1

    def stops(self, trial: int) -> bool:
        """Whether a trial is not among the best at the last rung that it has reached."""
        reached = [rung for rung, values in self._values.items() if trial in values]
        if not reached:
            return False
        values = self._values[max(reached)]
        best = sorted(values.values(), reverse=True)[: math.ceil(len(values) / self._keep)]
        return values[trial] < best[-1]
