"""Draws pictures of runs: curves, measurements of gradient methods and diagnostics, and predictions."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.config import PICTURES, check_choice
from mtrl.core.errors import expected
from mtrl.core.suite import Suite
from mtrl.envs import SUITES
from mtrl.experiment.config import ExperimentConfig, restore
from mtrl.experiment.load import load
from mtrl.experiment.parts import counted_tasks, primary_tasks
from mtrl.experiment.runs import Run, by_experiment, find_runs
from mtrl.experiment.runs import headline as curve_metric
from mtrl.monitoring import pixels, plots, plots_methods, plots_scores
from mtrl.monitoring.run import RunFolder
from mtrl.monitoring.statistics import OF_IMAGES, is_share

plot_scores = plots_scores.scores
EXAMPLES = 3
"""How many test examples a picture of predictions shows."""


def plot_runs(
    paths: Sequence[Path],
    output: Path | None = None,
    kind: str = "curves",
    *,
    headline: str = "",
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Path:
    """Draw one run, or compare several experiments, each over its seeds.

    Args:
        paths: runs, or folders that hold runs.
        output: the file to write. If not given, it is in the first run's folder, or in the working folder if that is
            not writable. For curves of several runs, and for relationships, it is in the working folder.
        kind: curves (learning curves; of several runs, interquartile means), means (the same with means), conflicts,
            lambdas (task weights), triad, affinity, relationships (the final task weights for each choice of primary
            tasks, from a sweep over choices), or predictions (for the first test examples). conflicts, lambdas,
            affinity and predictions take one run.
        headline: the metric of curves, such as evaluation/success; by default the one that `runs.headline` chooses.
        title, lines: for curves of several runs; see `plots.compare_runs`. Suites with panels of their own have
            a title, but neither lines nor a choice of the metric.

    Returns:
        The file.

    Raises:
        UserError: an unknown kind, no run, or runs that do not have what this kind shows.
    """
    check_choice("--kind", kind, PICTURES)
    if not paths:
        raise expected("What to draw", "one run or several whose metrics are kept", "none")
    runs = find_runs(paths, with_metrics=True)
    if kind == "triad":
        return _triad(runs, output or place(runs[0].folder.path, "triad.png"))
    if kind == "relationships":
        return _relationships(runs, output or Path("relationships.png"))
    if kind not in ("curves", "means"):
        return _of_one(runs, kind, output)
    config, suite = _parts(runs[0])
    if suite.panels:
        if headline or lines or kind == "means":
            what = "drawn as curves, without a metric or lines, as its pictures have metrics of their own"
            raise expected(f"A picture of benchmark={config.benchmark.kind}", what, headline or list(lines or [kind]))
        return _plot_panels(suite, runs, output, title)
    rows = [run.rows for run in runs]
    metric = headline or curve_metric(rows)
    if len(runs) == 1:
        picture = output or place(runs[0].folder.path, "learning_curves.png")
        tasks = _tasks_of(rows[0], metric, suite)
        counted = counted_tasks(config, suite) if tasks == list(suite.tasks) else None
        returns = f"{metric.partition('/')[0]}/return"
        return plots.learning_curves(rows[0], tasks, picture, headline=metric, returns=returns, counted=counted)
    groups = {label: [_of_counted(run, metric) for run in found] for label, found in by_experiment(runs).items()}
    of_images = metric.rpartition("/")[2] in OF_IMAGES
    axis: dict[str, Any] = {"steps_name": f"{'training images' if of_images else 'environment steps'} per task"}
    if config.training.kind == "batch":
        axis = {"steps_name": "updates"}
    if of_images and _lowest(rows, metric) > 0.5:
        axis["limits"] = (0.5, 1.005)
    look = {"title": title, "lines": lines, "means": kind == "means", **axis}
    return plots.compare_runs(groups, output or Path("comparison.png"), headline=metric, **look)


def plot_summary(facts: Mapping[str, Any], controls: Sequence[str], path: Path) -> None:
    """Draw a study's summary: a row for each task and a column for each label, those of `controls` last.

    Nothing is drawn unless scores are shares and all labels have the same tasks.
    """
    rows = facts["runs"]
    labels = sorted(rows, key=lambda label: label in controls)
    tasks = list(rows[labels[0]]["tasks"])
    if all(is_share(row["metric"]) and list(row["tasks"]) == tasks for row in rows.values()):
        shares = [[rows[label]["tasks"][task] for label in labels] for task in tasks]
        apart, uncounted = sum(label in controls for label in labels), set(tasks) - set(facts["counted"])
        plot_scores(shares, tasks, labels, path, title=facts["title"], controls=apart, uncounted=uncounted)


def _parts(run: Run) -> tuple[ExperimentConfig, Suite]:
    config = restore(run.folder.config)
    return config, SUITES.build(config.benchmark)


def _tasks_of(rows: Sequence[Mapping[str, Any]], metric: str, suite: Suite) -> list[str]:
    """The suite's tasks; if the metric is logged only for other names (unseen tasks, or groups of goals), those."""
    found = dict.fromkeys(key.removeprefix(f"{metric}/") for row in rows for key in row if key.startswith(f"{metric}/"))
    return list(suite.tasks) if not found or any(task in found for task in suite.tasks) else list(found)


def place(folder: Path, name: str) -> Path:
    """The path of a picture or report: in `folder` or, if that is not writable, in the working folder."""
    if os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return folder / name
    print(f"mtrl: {name} is put into the working folder, as {folder} is not writable.", file=sys.stderr)
    return Path(name)


def _of_counted(run: Run, name: str) -> list[dict[str, Any]]:
    """A run's rows without the metric's values for tasks that are left out of means."""
    config, suite = _parts(run)
    counted = counted_tasks(config, suite)
    left_out = set() if counted is None else {f"{name}/{t}" for k, t in enumerate(suite.tasks) if k not in counted}
    return [{key: value for key, value in row.items() if key not in left_out} for row in run.rows]


def _lowest(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> float:
    """The lowest value of a metric in all runs and tasks; 0 if it has none."""
    found = (value for rows in runs for row in rows for key, value in row.items() if key.startswith(f"{name}/"))
    return min((value for value in found if value is not None), default=0.0)


def _of_one(runs: Sequence[Run], kind: str, output: Path | None) -> Path:
    if len(runs) != 1:
        raise expected(f"--kind {kind}", "used with one run", len(runs))
    picture = output or place(runs[0].folder.path, f"{kind}.png")
    if kind == "affinity":
        return _affinity(runs[0].folder, picture)
    if kind == "predictions":
        return _predictions(runs[0].folder, picture)
    draw = plots_methods.conflicts if kind == "conflicts" else plots_methods.lambdas
    return draw(runs[0].rows, _tasks(runs[0]), picture)


def _triad(runs: Sequence[Run], picture: Path) -> Path:
    tasks = _same_tasks(runs)
    rows = {}
    for label, found in by_experiment(runs).items():
        for run in found:
            rows[label if len(found) == 1 else f"{label}/{run.path.name}"] = run.rows
    return plots_methods.triad(rows, tasks, picture)


def _relationships(runs: Sequence[Run], picture: Path) -> Path:
    tasks = _same_tasks(runs)
    found: dict[str, list[Sequence[Mapping[str, Any]]]] = {}
    primaries = [(primary_tasks(*_parts(run)), run) for run in runs]
    for chosen, run in sorted(primaries, key=lambda pair: (len(pair[0]) < len(tasks), pair[0])):
        label = " + ".join(tasks[t] for t in chosen) if len(chosen) < len(tasks) else "all"
        found.setdefault(label, []).append(run.rows)
    return plots_methods.relationships(found, tasks, picture)


def _same_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks of these runs. Raises UserError unless all have the same."""
    tasks = _tasks(runs[0])
    for run in runs:
        if _tasks(run) != tasks:
            raise expected(f"Run {run.path}", f"one with the tasks of {runs[0].path}", ", ".join(_tasks(run)))
    return tasks


def _affinity(folder: RunFolder, picture: Path) -> Path:
    found = folder.read_affinities()
    network = "critic" if "critic" in found["affinity"] else next(iter(found["affinity"]))
    matrix = np.array(found["affinity"][network], np.float64)
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    limit = float(np.nanmax(np.abs(others), initial=0.0)) or 1.0
    title = "how much a step for the row's task helps the column's task"
    return plots.matrix(matrix, found["tasks"], title, picture, limit=limit)


def _predictions(folder: RunFolder, picture: Path) -> Path:
    experiment, _, _ = load(folder.path)
    examples: list[dict[str, Any]] = []
    with contextlib.suppress(IndexError):  # there are fewer test examples
        examples += (experiment.trainer.pictures(number) for number in range(EXAMPLES))
    if not any(examples):
        kind = experiment.config.benchmark.kind
        raise expected("--kind predictions", "used with a run that predicts pictures or gripper commands", kind)
    return pixels.gallery(examples, picture)


def _tasks(run: Run) -> list[str]:
    return list(_parts(run)[1].tasks)


def _plot_panels(suite: Suite, runs: Sequence[Run], output: Path | None, title: str) -> Path:
    """Draw the metrics that the suite names, with a line for every run."""
    path = output or (place(runs[0].folder.path, "learning_curves.png") if len(runs) == 1 else Path("comparison.png"))
    lines = {
        f"{label}, {run.path.name.replace('_', ' ')}": run.rows
        for label, found in by_experiment(runs).items()
        for run in found
    }
    return plots.compare_values(lines, path, suite.panels, step_scale=suite.step_scale, title=title)
