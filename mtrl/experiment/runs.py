"""Finds runs in folders and groups the seeds of each experiment, for pictures, reports and comparisons."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.errors import expected
from mtrl.core.records import read_json, require
from mtrl.monitoring.drawing import FloatArray
from mtrl.monitoring.metrics import read_metrics
from mtrl.monitoring.run import RunFolder
from mtrl.monitoring.statistics import Interval, interquartile_mean

_DEPTH = 4
"""How many levels below a folder runs are searched for: <study>/<benchmark>/<experiment>/seed_<n>."""
HEADLINES = (
    "train/success", "evaluation/accuracy", "train/accuracy", "evaluation/score", "train/score", "evaluation/success",
    "train/return", "evaluation/return", "loss",
)  # fmt: skip
"""The metrics of learning curves, the most informative first. Accuracy on test images comes before that on training
batches. Behaviour cloning, and a run too short for an episode to end, have no success but `evaluation/success`.
Environments that do not report success have returns, and runs without scores have `loss`."""
SOLVED = 0.8
"""A task counts as solved if at least this share of its episodes is solved."""
_RECORD: dict[str, Any] = {
    "started": str, "command": [str], "packages": {str: str}, "git": {"commit": str, "dirty": bool},
}  # fmt: skip
"""The types of the entries in `provenance.json` about each process that worked on a run. Any of them may be missing."""
_OUTCOMES = {"updates", "training_seconds", "seed", "seconds", "config", "tasks", "best", "steps_total", "delta_mtl",
             "reuse"}  # fmt: skip
"""The entries of a result that are not part of its protocol."""


class Run:
    """A run's folder, whose contents are read on first use."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.path.resolve()
        self.seed = folder.config.get("seed")

    @classmethod
    def load(cls, path: Path) -> Run:
        """The run in this folder. Raises UserError where there is none."""
        return cls(RunFolder.load(path))

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the run's `metrics.jsonl`."""
        return read_metrics(self.folder.metrics)

    @functools.cached_property
    def result(self) -> dict[str, Any] | None:
        """The run's result; None if it has not finished or was not evaluated."""
        found = self.folder.result
        return found if found and found["tasks"] else None

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """The run's provenance; empty if it was not recorded. Raises UserError where the file is damaged."""
        file = self.folder.path / "provenance.json"
        found = read_json(file, {}) if file.exists() else {}
        require(found.get("resumed", []), [{}], f"File {file}", "resumed")
        for record in [found, *found.get("resumed", [])]:
            for name in _RECORD:
                if record.get(name) is not None:
                    require(record[name], _RECORD[name], f"File {file}", name)
        return found


def find_runs(paths: Sequence[Path], with_metrics: bool = False) -> list[Run]:
    """The runs in `paths`, each of which is a run or a folder that contains runs.

    with_metrics: whether to leave out runs in a folder that have no metrics yet, with a line on stderr for each.

    Raises:
        UserError: a path has no run.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        folders = list(_inside(path, _DEPTH))
        if with_metrics and folders != [path]:
            folders = [folder for folder in folders if _has_begun(folder)]
        if not folders:
            raise expected(f"Folder {path}", "a run, or a folder that holds runs (with a config.yaml each)", "none")
        found |= {folder.resolve(): Run.load(folder) for folder in folders if folder.resolve() not in found}
    return list(found.values())


def _inside(path: Path, depth: int) -> Iterator[Path]:
    """The runs in a folder, sorted by name with 10 after 9."""
    if (path / "config.yaml").is_file() or not path.is_dir():
        yield path  # `Run.load` refuses it if it is not a folder
    elif depth:
        names = sorted(os.listdir(path), key=lambda name: (len(name), name))
        for name in sorted(names, key=lambda name: name.rstrip("0123456789")):
            if (path / name).is_dir():
                yield from _inside(path / name, depth - 1)


def _has_begun(folder: Path) -> bool:
    metrics = folder / "metrics.jsonl"
    begun = (metrics.exists() and metrics.stat().st_size > 0) or (folder / "result.json").exists()
    if not begun:
        print(f"mtrl: {folder} is left out, as it has no metrics.", file=sys.stderr)
    return begun


def by_experiment(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """{name of the experiment's folder: its runs}. The name has more of the path if a seed would occur twice.

    Raises UserError if one folder holds two runs with the same seed, such as a copy.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.path.parent.name, []).append(run)
    for name, found in list(groups.items()):
        folders = {run.path.parent for run in found}
        if len(folders) > 1 and len({run.seed for run in found}) < len(found):
            del groups[name]
            common = os.path.commonpath(folders)
            for run in found:
                groups.setdefault(os.path.relpath(run.path.parent, common), []).append(run)
    for found in groups.values():
        for earlier, run in itertools.combinations(found, 2):
            if earlier.seed == run.seed:
                raise expected("Runs of one experiment", "of different seeds", f"{earlier.path} and {run.path}")
    return groups


def headline(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The first of `HEADLINES` with values in the runs' rows; if none, the first that occurs, or the first of all."""
    rows = [row for found in runs for row in found]
    valued, all_keys = {k for row in rows for k, v in row.items() if v is not None}, {k for row in rows for k in row}
    ordered = (name for keys in (valued, all_keys) for name in HEADLINES if any(k.startswith(f"{name}/") for k in keys))
    return next(ordered, HEADLINES[0])


@dataclass(frozen=True)
class Scores:
    """The scores of R runs of one method on T tasks. Each score is a mean over the episodes of an evaluation."""

    metric: str
    """The name of the score, such as success."""
    seeds: list[int | None]
    tasks: list[str]
    """T names; where tasks are goals, the names of the groups in which they are evaluated."""
    values: FloatArray
    """(R, T)"""
    counted: list[str]
    """The tasks over which means are taken."""

    @classmethod
    def of(cls, results: Sequence[Mapping[str, Any]]) -> Scores:
        """The scores of finished runs. A task that some of the runs lack is left out.

        Raises:
            UserError: the results have no task in common, or different metrics.
        """
        metrics = list(dict.fromkeys(result["headline"] for result in results))
        tasks = [task for task in results[0]["tasks"] if all(task in result["tasks"] for result in results)]
        if len(metrics) > 1 or not tasks:
            found = " and ".join(metrics) if tasks else "no common task"
            raise expected("Runs of one method", "of the same metric and tasks", found)
        rows = [[result["tasks"][task][f"mean_{metrics[0]}"] for task in tasks] for result in results]
        counted = [task for task in tasks if all(task in result.get("mean_over", tasks) for result in results)]
        values = np.array(rows, dtype=np.float64)
        return cls(metrics[0], [result.get("seed") for result in results], tasks, values, counted or tasks)

    def on(self, tasks: Sequence[str]) -> FloatArray:
        """The scores on these tasks, (R, len(tasks))."""
        return self.values[:, [self.tasks.index(task) for task in tasks]]

    @functools.cached_property
    def interquartile_mean(self) -> Interval:
        return interquartile_mean(self.on(self.counted))


def protocol(result: Mapping[str, Any]) -> dict[str, Any]:
    """How a result was measured: its entries except scores, `mean_over`, speed, seed and configuration."""
    return {key: value for key, value in result.items() if key not in _OUTCOMES and not key.startswith("mean_")}


def brief(value: Any, most: int = 60) -> str:
    """A value of a configuration or a protocol as text, shortened to at most `most` characters."""
    if isinstance(value, list) and value:
        text = ", ".join(map(brief, value))
        return text if len(text) <= most else f"{len(value)} values"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "none" if value in (None, [], {}) else f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
