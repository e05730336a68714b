"""Pictures of run folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.config import check_choice
from mtrl.core.errors import expected
from mtrl.core.suite import Suite
from mtrl.envs import SUITES
from mtrl.experiment.config import restore
from mtrl.experiment.parts import counted_tasks
from mtrl.monitoring import plots, plots_methods, plots_scores
from mtrl.monitoring.metrics import read_metrics
from mtrl.monitoring.run import RunFolder

KINDS = ("curves", "conflicts", "lambdas", "triad", "affinity")
plot_scores = plots_scores.scores
_HEADLINES = ("train/success", "evaluation/accuracy", "train/accuracy", "evaluation/success", "train/return", "loss")
"""Of the test images rather than the training batches; `evaluation/success` is of training on demonstrations, without
episodes, `train/return` of environments that do not tell when they are solved, and `loss` of runs without scores."""


def plot_runs(
    paths: Sequence[Path],
    output: Path | None = None,
    kind: str = "curves",
    *,
    headline: str = "",
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Path:
    """Draw one run, or several: experiments against each other, seeds together.

    Args:
        kind: curves (learning curves), conflicts, lambdas (task weights), triad or affinity. Conflicts, lambdas and
            affinities are one run's.
        headline: the metric to draw, such as evaluation/success; by default the one that matters most.
        title, lines: of curves of several experiments; see `plots.compare_runs`.
    """
    check_choice("--kind", kind, KINDS)
    if not paths:
        raise expected("What to draw", "one run or several whose metrics are kept", "none")
    folders = [RunFolder.load(path) for path in paths]
    if kind == "triad":
        return _triad(folders, output or _place(folders[0], "triad.png"))
    if kind != "curves":
        return _of_one(folders, kind, output)
    rows = [read_metrics(folder.metrics) for folder in folders]
    config = restore(folders[0].config)
    suite: Suite = SUITES.build(config.benchmark)
    if suite.panels:
        return _plot_panels(suite, folders, rows, output)
    if len(folders) == 1:
        picture = output or _place(folders[0], "learning_curves.png")
        headline = headline or _headline(rows)
        returns = f"{headline.partition('/')[0]}/return"
        counted = counted_tasks(config, suite)
        return plots.learning_curves(
            rows[0], list(suite.tasks), picture, headline=headline, returns=returns, counted=counted
        )
    groups: dict[str, list[Any]] = {}
    headline = headline or _headline(rows)
    for folder, run in zip(folders, rows, strict=True):
        groups.setdefault(folder.path.resolve().parent.name, []).append(_of_counted(folder, run, headline))
    images: dict[str, Any] = {"steps_name": "training images per task"} if headline.endswith("accuracy") else {}
    if images and _lowest(rows, headline) > 0.5:
        images["limits"] = (0.5, 1.005)
    look = {"title": title, "lines": lines, **images}
    return plots.compare_runs(groups, output or Path("comparison.png"), headline=headline, **look)


def _place(folder: RunFolder, name: str) -> Path:
    """Where a run's picture goes: into its folder, or where that may not be written into the working folder."""
    if os.access(folder.path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return folder.path / name
    print(f"mtrl: the picture is drawn here, as {folder.path} may not be written.", file=sys.stderr)
    return Path(name)


def _of_counted(folder: RunFolder, rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows without a metric's values of tasks that no mean is taken over."""
    config = restore(folder.config)
    suite: Suite = SUITES.build(config.benchmark)
    counted = counted_tasks(config, suite)
    left_out = set() if counted is None else {f"{name}/{t}" for k, t in enumerate(suite.tasks) if k not in counted}
    return [{key: value for key, value in row.items() if key not in left_out} for row in rows]


def _lowest(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> float:
    """The lowest value of a metric in all runs and tasks."""
    found = (value for rows in runs for row in rows for key, value in row.items() if key.startswith(f"{name}/"))
    return min((value for value in found if value is not None), default=0.0)


def _headline(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The metric that matters most, of those that these runs have."""
    keys = {key for rows in runs for row in rows for key in row}
    return next((name for name in _HEADLINES if any(key.startswith(f"{name}/") for key in keys)), _HEADLINES[0])


def _of_one(folders: Sequence[RunFolder], kind: str, output: Path | None) -> Path:
    if len(folders) != 1:
        raise expected(f"--kind {kind}", "used with one run", len(folders))
    folder = folders[0]
    picture = output or _place(folder, f"{kind}.png")
    if kind == "affinity":
        return _affinity(folder, picture)
    draw = plots_methods.conflicts if kind == "conflicts" else plots_methods.lambdas
    return draw(read_metrics(folder.metrics), _tasks(folder), picture)


def _triad(folders: Sequence[RunFolder], picture: Path) -> Path:
    tasks = _tasks(folders[0])
    names = [folder.path.resolve().parent.name for folder in folders]
    runs = {}
    for name, folder in zip(names, folders, strict=True):
        if _tasks(folder) != tasks:
            raise expected(f"Run {folder.path}", f"of the tasks of {folders[0].path}", ", ".join(_tasks(folder)))
        runs[name if names.count(name) == 1 else f"{name}/{folder.path.name}"] = read_metrics(folder.metrics)
    return plots_methods.triad(runs, tasks, picture)


def _affinity(folder: RunFolder, picture: Path) -> Path:
    found = folder.read_affinities()
    network = "critic" if "critic" in found["affinity"] else next(iter(found["affinity"]))
    matrix = np.array(found["affinity"][network])
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    limit = float(np.abs(others).max(initial=0.0)) or 1.0
    title = "what a step of the row's task gives the column's"
    return plots.matrix(matrix, found["tasks"], title, picture, limit=limit)


def _tasks(folder: RunFolder) -> list[str]:
    return list(SUITES.build(restore(folder.config).benchmark).tasks)


def _plot_panels(suite: Suite, folders: Sequence[RunFolder], rows: Sequence[Any], output: Path | None) -> Path:
    """The metrics that the suite names, every run a line."""
    alone = len(folders) == 1
    labels = [f"{folder.path.resolve().parent.name}, {folder.path.name.replace('_', ' ')}" for folder in folders]
    path = output or (_place(folders[0], "learning_curves.png") if alone else Path("comparison.png"))
    return plots.compare_values(dict(zip(labels, rows, strict=True)), path, suite.panels, step_scale=suite.step_scale)
