"""Successive halving: all labels of a study get a small budget, the better half of them a larger one, and so on.

The method is that of Jamieson & Talwalkar 2016 ("Non-stochastic Best Arm Identification and Hyperparameter
Optimization"). Each of these budgets is a rung. A run that goes on is the same run with more steps. A label's runs
differ only in their seeds. At the end of a rung, labels are ranked by their mean score over seeds and tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from mtrl.core.errors import expected
from mtrl.core.records import read_json, require
from mtrl.monitoring.files import write_json

FILE = "rungs.json"
"""The file in the study's folder: `halving`, as in the study, and `scores`, label -> seed -> the run's score at the end
of each of its rungs. Older files have only the scores."""
_SCORES = {str: {str: [float]}}


class Rungs:
    """The scores of a study's runs at the end of each rung, where they are known."""

    def __init__(self, folder: Path, seeds: Mapping[str, Sequence[int]], halving: Sequence[int]) -> None:
        """folder: the study's folder; seeds: label -> its seeds; halving: each rung's multiple of a run's steps.

        Raises:
            UserError: the kept scores are damaged, or are those of rungs with other steps.
        """
        self._path, self._seeds, self._halving = folder / FILE, seeds, [*halving]
        self.scores: dict[str, dict[str, list[float]]] = {}
        if self._path.is_file():
            found = read_json(self._path, {str: object})
            whole = {"halving", "scores"} == found.keys()
            require(found, {"halving": [int], "scores": _SCORES} if whole else _SCORES, f"File {self._path}")
            self.scores = found["scores"] if whole else found
            if whole and any(old != new for old, new in zip(found["halving"], halving, strict=False)):
                what = f"of rungs {self._halving}; a study with other rungs needs a folder of its own"
                raise expected(f"File {self._path}", what, found["halving"])

    def alive(self, rung: int) -> list[str]:
        """The labels that take part in a rung: all in the first, then the previous rung's better half, rounded up."""
        labels = list(self._seeds)
        for before in range(rung):
            ranked = sorted(labels, key=lambda label: -self.means(label)[before])  # ties keep the study's order
            labels = ranked[: math.ceil(len(ranked) / 2)]
        return [label for label in self._seeds if label in labels]

    def missing(self, rung: int) -> list[tuple[str, int]]:
        """The runs (label, seed) of a rung whose scores are not known."""
        runs = [(label, seed) for label in self.alive(rung) for seed in self._seeds[label]]
        return [(label, seed) for label, seed in runs if len(self._of(label, seed)) <= rung]

    def keep(self, scores: Sequence[tuple[str, int, float]]) -> None:
        """Add the scores of a rung, (label, seed, score), and write the file."""
        for label, seed, score in scores:
            self._of(label, seed).append(score)
        write_json(self._path, {"halving": self._halving, "scores": self.scores})

    def means(self, label: str) -> list[float]:
        """The label's mean score over seeds at the end of each rung that all of its seeds have finished."""
        return [mean(scores) for scores in zip(*(self._of(label, seed) for seed in self._seeds[label]), strict=False)]

    def _of(self, label: str, seed: int) -> list[float]:
        return self.scores.setdefault(label, {}).setdefault(str(seed), [])
