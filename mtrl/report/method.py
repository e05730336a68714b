"""The methods that a report compares."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from mtrl.experiment.runs import Run, Scores


@dataclass
class Method:
    """The runs of one experiment."""

    label: str
    place: int
    """Its position among the methods, from 0, which chooses its colour."""
    runs: list[Run]

    @functools.cached_property
    def scores(self) -> Scores | None:
        """The scores of its finished runs; None if no run has finished."""
        results = [run.result for run in self.runs if run.result is not None]
        return Scores.of(results) if results else None

    @property
    def rows(self) -> list[list[dict[str, Any]]]:
        """The logged rows of its finished runs, or of all runs if none has finished. Unfinished runs would shorten the
        range of steps that all have in common."""
        finished = [run for run in self.runs if run.result is not None]
        return [run.rows for run in finished or self.runs]
