"""The contents of the page: everything that the template shows, as text, numbers and finished pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from mtrl.core.errors import UserError, expected
from mtrl.core.records import require
from mtrl.experiment.runs import HEADLINES, SOLVED, Run, Scores
from mtrl.monitoring import plots_report
from mtrl.monitoring.curves import by_minute, stack, tasks_of
from mtrl.monitoring.drawing import COLOURS, STEPS, FloatArray, Row
from mtrl.monitoring.statistics import is_share, performance_profile, shown
from mtrl.report import gradients, origin, videos
from mtrl.report.method import Method

_ENOUGH = 3
"""A metric was logged often enough for learning curves if at least one run has this many rows with it."""
_POINTS = 120
"""The most points of a learning curve. More would be slow, as each point's interval takes thousands of resamples."""


def of(groups: Mapping[str, Sequence[Run]], target: Path, title: str) -> dict[str, Any]:
    """Everything that `page.html` refers to, by name.

    Args:
        groups: method -> its runs.
        target: the page's file; links are relative to its folder.
        title: the page's title; made from the benchmark and the methods if empty.

    Raises:
        UserError: the runs are of several benchmarks, or a file of a run cannot be read.
    """
    methods = [Method(label, place, list(runs)) for place, (label, runs) in enumerate(groups.items())]
    runs = [run for method in methods for run in method.runs]
    named = {f"{method.label}/{run.path.name}": run for method in methods for run in method.runs}
    benchmarks = list(dict.fromkeys(map(origin.benchmark, runs)))
    if len(benchmarks) > 1:
        raise expected("The runs of a report", "of one benchmark", ", ".join(benchmarks))
    metric = next((method.scores.metric for method in methods if method.scores), "")
    curves = _curve_metric(methods, metric)
    return {
        "title": title or f"{benchmarks[0]}: {methods[0].label if len(methods) == 1 else f'{len(methods)} methods'}",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "benchmark": benchmarks[0],
        "methods": [_method(method, metric) for method in methods],
        "runs": len(runs),
        "unfinished": [name for name, run in named.items() if run.result is None],
        "each": {name: _run(run, metric) for name, run in named.items()},
        "metric": metric or curves.rpartition("/")[2],
        "protocol": origin.of_protocol(runs),
        "configurations": origin.of_configurations(groups),
        "curves": _curves(methods, curves),
        "tasks": _tasks(methods, metric, curves),
        "reused": [(name, fact) for name, run in named.items() for fact in _reused(run)],
        "profiles": _profiles(methods, metric),
        "gradients": gradients.of(methods),
        "videos": videos.of(named, target),
        "machines": origin.of_machines(named),
        "commands": origin.commands(named, target),
        "files": [(m.label, yaml.safe_dump(m.runs[0].folder.config, sort_keys=False)) for m in methods],
    }


def _curve_metric(methods: Sequence[Method], metric: str) -> str:
    """The metric of the learning curves.

    It is that of the evaluations during training, which measure the policy itself, if there are enough of them.
    Otherwise it is the most important metric that was logged often enough, or the first of `HEADLINES` if none was.
    """
    rows = [found for method in methods for found in method.rows]
    for name in (f"evaluation/{metric}", *HEADLINES):
        counts = (sum(any(key.startswith(f"{name}/") for key in row) for row in found) for found in rows)
        if max(counts, default=0) >= _ENOUGH:
            return name
    return HEADLINES[0]


def _method(method: Method, metric: str) -> dict[str, Any]:
    """A method's row in the table of results. `middle` is None if its score is not known or is of another metric."""
    scores, finished = method.scores, [run for run in method.runs if run.result is not None]
    facts: dict[str, Any] = {
        "label": method.label,
        "colour": method.place % len(COLOURS),
        "ring": method.place >= len(COLOURS),
        "seeds": [run.seed for run in method.runs],
        "middle": None,
        "delta": None,
        "finished": len(finished),
        "step": [run.rows[-1]["step"] for run in method.runs if run.rows],
    }
    if scores is None or scores.metric != metric:
        return facts
    middle, counted = scores.interquartile_mean, scores.on(scores.counted)
    known = middle.low == middle.low
    results = [run.result or {} for run in finished]
    seconds = [sum(result.get("training_seconds", {}).values()) for result in results]
    solved = (counted.mean(0) >= SOLVED).sum() if is_share(metric) else None
    deltas = [result["delta_mtl"] for result in results if result.get("delta_mtl") is not None]
    return facts | {
        "delta": f"{mean(deltas):+.1f} %" if deltas else None,
        "middle": shown(metric, middle.point, 1),
        "interval": f"{shown(metric, middle.low, 1)} to {shown(metric, middle.high, 1)}" if known else None,
        "bar": [middle.point, *([middle.low, middle.high] if known else [middle.point] * 2)]
        if is_share(metric)
        else None,
        "mean": shown(metric, float(counted.mean()), 1),
        "each": [shown(metric, value, 1) for value in counted.mean(1).tolist()],
        "solved": None if solved is None else f"{solved} of {len(scores.counted)}",
        "steps": sorted({result.get("steps_per_task", 0) for result in results}),
        "minutes": mean(seconds) / 60,
    }


def _run(run: Run, metric: str) -> list[Any]:
    """One run's row: its steps per task, updates, score and minutes of training; a dash where one is not known."""
    if (result := run.result) is None:
        return [f"not finished, at {run.rows[-1]['step']:,}" if run.rows else "not begun", "–", "–", "–"]
    score = result.get(f"mean_{metric}")
    minutes = f"{sum(result.get('training_seconds', {}).values()) / 60:.1f} min"
    return [
        result.get("steps_per_task"),
        result.get("updates"),
        "–" if score is None else shown(metric, score, 1),
        minutes,
    ]


def _reused(run: Run) -> list[dict[str, Any]]:
    """The policies that tasks of a finished run took over (the module `mtrl.training.reuse`).

    Raises:
        UserError: what the run's result tells of them has another form.
    """
    if run.result is None or "reuse" not in run.result:
        return []
    fact = {"step": int, "task": str, "source": str, **dict.fromkeys(("success", "returns", "own_returns"), float)}
    require(run.result["reuse"], {"taken_over": [fact]}, f"File {run.path / 'result.json'}", "reuse")
    return run.result["reuse"]["taken_over"]  # type: ignore[no-any-return]


def _curves(methods: Sequence[Method], metric: str) -> dict[str, Any]:
    """Learning curves over steps and, if the rows record it, over training time."""
    steps = {method.place: _drawable(method, method.rows, metric) for method in methods}
    by_time = [[list(by_minute(rows)) for rows in method.rows] for method in methods]
    times = {method.place: _drawable(method, rows, metric) for method, rows in zip(methods, by_time, strict=True)}
    names = {"over steps": (steps, STEPS), "over time": (times, "minutes of training, evaluations not included")}
    pictures = []
    for name, (found, x_name) in names.items():
        drawn = {place: rows for place, rows in found.items() if rows}
        if drawn:
            labels = {methods[place].label: rows for place, rows in drawn.items()}
            pictures.append((name, Markup(plots_report.learning(labels, metric, x_name, list(drawn)))))
    left_out = [method.label for method in methods if not steps[method.place]]
    untimed = [method.label for method in methods if not times[method.place] and steps[method.place]]
    kinds = {"evaluation": "in evaluations during training", "train": "in training episodes, which explore"}
    what = f"{metric.rpartition('/')[2]} {kinds.get(metric.partition('/')[0], '')}".strip()
    return {
        "metric": metric,
        "what": what,
        "pictures": pictures,
        "left_out": left_out,
        "untimed": untimed,
        "bands": any(len(rows) > 1 for rows in steps.values()),
    }


def _drawable(method: Method, seeds: Sequence[Sequence[Row]], metric: str) -> list[list[Row]]:
    """Each seed's rows that contain the metric, thinned out. Empty if fewer than two points can be drawn."""
    rows = [_thinned([row for row in found if any(k.startswith(f"{metric}/") for k in row)]) for found in seeds]
    rows = [found for found in rows if found]
    try:
        return rows if len(stack(method.label, rows, metric)[0]) > 1 else []
    except UserError:
        return []


def _thinned(rows: list[Row]) -> list[Row]:
    """At most `_POINTS` rows, evenly spaced and including the last one."""
    every = -(-len(rows) // _POINTS)
    return rows[::-1][::every][::-1] if rows else []


def _tasks(methods: Sequence[Method], metric: str, curves: str) -> dict[str, Any]:
    """The table of tasks: a row for each task, with each method's score and learning curve."""
    scored = {method.place: method.scores for method in methods if method.scores and method.scores.metric == metric}
    names = list(dict.fromkeys(task for scores in scored.values() for task in scores.tasks))
    names = names or tasks_of([rows for method in methods for rows in method.rows], curves)
    lines = _task_lines(methods, curves)
    values = [value for scores in scored.values() for value in scores.values.mean(0).tolist()] or [0.0]
    limits = (0.0, 1.0) if is_share(metric) else (min(values), max(values))
    rows = []
    for task in names:
        cells = [_cell(scored.get(method.place), task, metric, limits) for method in methods]
        known = [cell["value"] for cell in cells if cell is not None]
        counted = any(task in scores.counted for scores in scored.values()) or not scored
        unsolved = is_share(metric) and any(value < SOLVED for value in known)
        rows.append({"name": task, "cells": cells, "line": _spark(lines.get(task), curves), "counted": counted,
                     "unsolved": unsolved})  # fmt: skip
    return {"rows": rows, "lines": any(row["line"] for row in rows), "share": is_share(metric)}


def _cell(scores: Scores | None, task: str, metric: str, limits: tuple[float, float]) -> dict[str, Any] | None:
    """One method's score on a task: the mean, its text, its colour's strength in [0, 1], and each seed's score."""
    if scores is None or task not in scores.tasks:
        return None
    seeds = scores.on([task])[:, 0].tolist()
    value, width = mean(seeds), (limits[1] - limits[0]) or 1.0
    each = ", ".join(f"seed {seed}: {shown(metric, one)}" for seed, one in zip(scores.seeds, seeds, strict=True))
    heat = round((value - limits[0]) / width, 3)
    return {"value": value, "text": shown(metric, value), "heat": heat, "each": each}


def _task_lines(methods: Sequence[Method], metric: str) -> dict[str, list[tuple[int, FloatArray, FloatArray]]]:
    """Task -> (number of the colour, steps (K,), means over seeds (K,)) for each method that has curves."""
    found: dict[str, list[tuple[int, FloatArray, FloatArray]]] = {}
    for method in methods:
        if rows := _drawable(method, method.rows, metric):
            steps, scores = stack(method.label, rows, metric)
            for task, values in zip(tasks_of(rows, metric), scores.mean(0), strict=True):
                found.setdefault(task, []).append((method.place, steps, values))
    return found


def _spark(lines: list[tuple[int, FloatArray, FloatArray]] | None, metric: str) -> Markup | None:
    if not lines:
        return None
    values = np.concatenate([values for _, _, values in lines])
    limits = (0.0, 1.0) if is_share(metric) else (float(values.min()), float(values.max()))
    return Markup(plots_report.sparkline(lines, limits))


def _profiles(methods: Sequence[Method], metric: str) -> Markup | None:
    """The picture of performance profiles; None if no method has scores on two tasks or more."""
    scored = {method.place: method.scores for method in methods if method.scores and method.scores.metric == metric}
    found = {place: scores.on(scores.counted) for place, scores in scored.items()}
    found = {place: array for place, array in found.items() if array.shape[1] > 1}
    if not found:
        return None
    values = np.concatenate([array.ravel() for array in found.values()])
    low, high = (0.0, 1.0) if is_share(metric) else (float(values.min()), float(values.max()))
    thresholds = np.linspace(low, high, 101)
    bands = {place: performance_profile(array, thresholds) for place, array in found.items()}
    return Markup(plots_report.profiles(bands, thresholds, metric))
