"""Early stopping of a sweep's trials by asynchronous successive halving, from the rows of their metrics.

This is the stopping variant of Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA): at the
rungs, which are the steps r, rη, rη², ..., a trial is compared with all trials that have reached this step so far, and
continues if it is among the best 1/η of them. Unlike there, a running trial is judged again, at its last rung, whenever
others reach this rung. Decisions depend only on the rows, so nothing else is stored. When the same sweep is started
again, it judges each trial by all rows that exist by then, and continues those that are now among the best.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any


class ASHA:
    """The trials' values at each rung. Larger values are better.

    Args:
        metric: the name of the compared value in a row.
        first: r, the step of the first rung.
        keep: η; 1/η of the trials continue.
    """

    def __init__(self, metric: str, first: int, keep: int) -> None:
        self._metric, self._first, self._keep = metric, first, keep
        self._values: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def add(self, trial: int, row: Mapping[str, Any]) -> None:
        """Add a row of the trial with this number. The first row with the metric at or after a rung counts for it."""
        value = row.get(self._metric)
        if value is None or isinstance(value, list):  # a matrix of the tasks has no order
            return
        rung = 0
        while row["step"] >= self._first * self._keep**rung:
            self._values[rung].setdefault(trial, float(value))
            rung += 1

    def stops(self, trial: int) -> bool:
        """Whether to stop a trial: at the last rung that it has reached, it is not among the best 1/η."""
        reached = [rung for rung, values in self._values.items() if trial in values]
        if not reached:
            return False
        values = self._values[max(reached)]
        best = sorted(values.values(), reverse=True)[: math.ceil(len(values) / self._keep)]
        return values[trial] < best[-1]
