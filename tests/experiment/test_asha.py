"""ASHA's decisions, from rows of metrics."""

from __future__ import annotations

import random

import pytest

from mtrl.experiment.asha import ASHA


def rows(value: float, steps: int, every: int = 10) -> list[dict[str, float | int | None]]:
    return [{"step": step, "score": value} for step in range(every, steps + 1, every)]


def test_the_best_third_at_each_rung_continues_in_any_order_of_trials() -> None:
    """The rungs are at 30 and 90 steps. Of nine trials, three continue after the first and one after the second."""
    values = dict(enumerate([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0, 0.6, 0.5]))
    for seed in range(20):
        order = random.Random(seed).sample(sorted(values), len(values))
        asha = ASHA("score", 30, 3)
        for trial in order:
            for row in rows(values[trial], 30):
                asha.add(trial, row)
        assert {trial for trial in values if not asha.stops(trial)} == {1, 3, 5}
        for trial in (t for t in order if t in (1, 3, 5)):
            for row in rows(values[trial], 90):
                asha.add(trial, row)
        assert {trial for trial in (1, 3, 5) if not asha.stops(trial)} == {1}


@pytest.mark.parametrize(
    ("row", "stops"),
    [
        ({"step": 29, "score": 0.1}, False),  # the rung is not reached
        ({"step": 30, "score": None}, False),  # not measured
        ({"step": 30, "other": 0.1}, False),
        ({"step": 30, "score": 0.1}, True),
        ({"step": 30, "score": 0.5}, False),  # as good as the best
    ],
)
def test_only_a_value_at_a_rung_is_compared(row: dict[str, float | int | None], stops: bool) -> None:
    asha = ASHA("score", 30, 3)
    asha.add(0, {"step": 30, "score": 0.5})
    assert not asha.stops(0), "the first trial at a rung continues"
    asha.add(1, row)
    assert asha.stops(1) == stops


def test_the_first_row_at_a_rung_counts() -> None:
    asha = ASHA("score", 30, 2)
    for trial, first in enumerate([0.4, 0.6]):
        asha.add(trial, {"step": 31, "score": first})
        asha.add(trial, {"step": 40, "score": 1.0 - first})
    assert asha.stops(0) and not asha.stops(1)
