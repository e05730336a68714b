"""What a `study.yaml` says: the runs of a study, and how they are summarised and drawn.

A study is a folder with a `study.yaml`:

    title: MT10 against the clock
    common: [video=false]            # overrides for every run
    seeds: [1, 2, 3]
    runs:
      quick: [recipe=quick]          # label: its overrides
      long: {overrides: [recipe=mt10], seeds: [1]}
    prepare: [demos collect ...]     # commands of mtrl that run first
    equal: steps_total               # a part of the result that must be equal in all runs
    halving: [1, 2, 4]               # multiples of a run's steps; after each, the better half goes on (see `rungs`)
    controls: [blind]                # labels that should fail: a task that they solve does not count
    lines: {TOPPO (reported): 0.972} # published results, drawn as lines
    metric: evaluation/success       # of the curves
    pictures: {comparison.png: curves, scores.png: scores}  # or means: plain instead of interquartile means
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrl.core.config import PICTURES, check
from mtrl.core.errors import expected
from mtrl.core.records import read_yaml, require
from mtrl.experiment.config import USABLE, is_name

_BUDGETS = ("steps_total", "updates", "steps_per_task")
_OWN = ("seed", "experiment", "runs")
"""Options that a study sets for each run."""
_SHAPES: dict[str, Any] = {
    "runs": {str: {"overrides": [str], "seeds": [int]}}, "common": [str], "seeds": [int], "title": str,
    "prepare": [str], "equal": str, "halving": [int], "controls": [str], "lines": {str: float},
    "metric": str, "pictures": {str: str},
}  # fmt: skip


@dataclass
class Study:
    """The contents of a `study.yaml`."""

    folder: Path
    runs: dict[str, list[str]]
    seeds: dict[str, list[int]]
    title: str = ""
    prepare: list[str] = field(default_factory=list)
    equal: str = ""
    halving: list[int] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    lines: dict[str, float] = field(default_factory=dict)
    metric: str = ""
    pictures: dict[str, str] = field(default_factory=lambda: {"comparison.png": "curves", "scores.png": "scores"})

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study from its folder or its `study.yaml`. Raises UserError where there is none or it is malformed."""
        file = path / "study.yaml" if path.is_dir() else path
        found = {"common": [], "seeds": [1], **read_yaml(file, {"runs": {str: object}}, "Study")}
        usual = {"overrides": [], "seeds": found["seeds"]}
        given = {k: e if isinstance(e, dict) else {"overrides": e or []} for k, e in found.pop("runs").items()}
        if not given:
            raise expected(f"Study {file}", "one with `runs`, labels with overrides each", "none")
        unknown = {key for key in found if key not in _SHAPES}
        unknown |= {key for entry in given.values() for key in entry if key not in usual}
        if unknown:
            what = "made of the keys that `mtrl study --help` names, and each run of overrides and seeds"
            raise expected(f"Study {file}", what, min(map(str, unknown)))
        entries = {label: {**usual, **entry} for label, entry in given.items()}
        for key, value in {**found, "runs": entries}.items():
            require(value, _SHAPES[key], f"Study {file}", key)
        for name in [*entries, *found.get("pictures", [])]:
            check(is_name(name), "runs and pictures of a study", USABLE, name)
        common, _ = found.pop("common"), found.pop("seeds")
        runs = {label: [*common, *entry["overrides"]] for label, entry in entries.items()}
        study = cls(file.parent, runs, {label: entry["seeds"] for label, entry in entries.items()}, **found)
        study._check()
        return study

    def _check(self) -> None:
        """Check what would otherwise be noticed only after the runs."""
        kinds, file = (*PICTURES, "scores"), f"study {self.folder}"
        for label, seeds in self.seeds.items():
            if not seeds or len({*seeds}) < len(seeds):
                raise expected(f"Seeds of {label} in {file}", "one or more, different from each other", seeds)
            check_overrides(self.runs[label])
        for label in (label for label in self.controls if label not in self.runs):
            raise expected(f"Controls of {file}", f"among {', '.join(self.runs)}", label)
        for kind in (kind for kind in self.pictures.values() if kind not in kinds):
            raise expected(f"Pictures of {file}", f"of one of {', '.join(kinds)}", kind)
        if self.equal and self.equal not in _BUDGETS:
            raise expected(f"`equal` of {file}", f"one of {', '.join(_BUDGETS)}", self.equal)

    def command(self, label: str, seed: int, overrides: Sequence[str]) -> list[str]:
        """The overrides of one run. Later ones take precedence."""
        place = [f"runs=runs/{self.folder.resolve().name}", f"experiment={label}", f"seed={seed}"]
        return [*place, *self.runs[label], *overrides]

    def place(self, label: str, seed: int) -> Path:
        """The folder in which a run of this study is kept."""
        return self.folder / label / f"seed_{seed}"

    def kept(self, label: str, file: str = "result.json") -> list[Path]:
        """The folders of this label's kept runs that have `file`, by seed."""
        found = (self.place(label, seed) for seed in self.seeds[label])
        return [path for path in found if (path / file).is_file()]

    def chosen(self, labels: Sequence[str]) -> list[str]:
        """`labels`, or all of the study if there are none. Raises UserError if one is unknown."""
        for label in labels:
            if label not in self.runs:
                raise expected("A label", f"one of {', '.join(self.runs)}", label)
        return [*(labels or self.runs)]


def check_overrides(overrides: Iterable[str]) -> None:
    """Raises UserError if an override sets what a study sets for each run."""
    for word in overrides:
        if word.partition("=")[0] in _OWN:
            raise expected("Overrides", f"without {', '.join(_OWN)}, which a study sets for each run", word)
