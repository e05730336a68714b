"""Compares methods: differences between their scores, with confidence intervals and probabilities of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mtrl.core.errors import UserError, expected
from mtrl.experiment.runs import Run, Scores, brief, by_experiment, find_runs, protocol
from mtrl.monitoring.changes import differences
from mtrl.monitoring.statistics import Band, Interval, compare, is_share, middle_mean, shown

_NAMED = 4
"""The most differences that a message names."""


def compare_runs(ones: Sequence[Path], against: Sequence[Path], across_protocols: bool = False) -> dict[str, Any]:
    """Compare each method in `ones` with the only method in `against`, over the tasks that count on both sides.

    Args:
        ones, against: folders of runs, or folders that hold runs.
        across_protocols: whether to compare runs even if their protocols (reward version, horizon, ...) differ.

    Returns:
        A dictionary in JSON types: `metric`; `against`; `comparisons`, one per method, with differences {point, low,
            high}; and `unfinished`, the names of the runs left out. Bounds are None where a side has only one run.

    Raises:
        UserError: `against` has several methods; a method has no finished run, or two with the same seed; the protocols
            or metrics differ; or no task counts on both sides.
    """
    base = by_experiment(find_runs(against))
    if len(base) > 1:
        raise expected("What follows --against", "runs of one method", ", ".join(base))
    (name, others), found_sides = next(iter(base.items())), by_experiment(find_runs(ones))
    own = {run.path.resolve() for run in others}
    sides = {label: runs for label, runs in found_sides.items() if not own & {run.path.resolve() for run in runs}}
    if not sides:
        raise expected("The runs to compare", "others than those of --against", str(ones))
    unfinished = [_name(run) for found in [*sides.values(), others] for run in found if run.result is None]
    reference = _results(f"--against {name}", others)
    base_scores, comparisons = Scores.of(reference), []
    for label, runs in sides.items():
        results = _results(label, runs)
        found = _protocol_differences([*results, *reference])
        if found and not across_protocols:
            raise UserError(
                f"Runs of {label} and {name} should have one protocol (--across-protocols compares them nevertheless). "
                f"Found {_listed(found)}."
            )
        facts = _facts(label, Scores.of(results), base_scores)
        comparisons.append({**facts, "protocol_differences": found})
    return {
        "metric": base_scores.metric,
        "against": {"label": name, "seeds": base_scores.seeds},
        "comparisons": comparisons,
        "unfinished": unfinished,
    }


def _name(run: Run) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def _results(what: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The results of a method's finished runs."""
    finished = {run.seed: run.result for run in runs if run.result is not None}
    if not finished:
        raise expected(f"Runs of {what}", "ones of which at least one is finished and evaluated", "none")
    if len(finished) < sum(run.result is not None for run in runs):
        raise expected(f"Runs of {what}", "ones with different seeds", sorted(str(run.seed) for run in runs))
    return list(finished.values())


def _protocol_differences(results: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The parts of the protocol in which runs differ: name -> the first two different values."""
    first, found = protocol(results[0]), dict[str, list[Any]]()
    for other in results[1:]:
        for key, pair in differences(first, protocol(other)).items():
            if not all(value in (None, "absent") for value in pair):  # older runs do not record what is unset
                found.setdefault(key, list(pair))
    return found


def _listed(found: dict[str, list[Any]]) -> str:
    named = [f"{key}: {brief(left)} and {brief(right)}" for key, (left, right) in list(found.items())[:_NAMED]]
    return ", ".join(named) + (f", and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _facts(label: str, one: Scores, other: Scores) -> dict[str, Any]:
    """One method against the other, in JSON types."""
    if one.metric != other.metric:
        raise expected("Compared methods", f"ones with the metric {other.metric}", f"{one.metric} for {label}")
    tasks = [task for task in other.counted if task in one.counted]
    if not tasks:
        raise expected(
            f"Runs of {label}",
            f"ones with at least one of the tasks {', '.join(other.counted)}",
            ", ".join(one.counted),
        )
    arrays = one.on(tasks), other.on(tasks)
    found = compare(*arrays)
    middle, against = (float(middle_mean(array[..., None])[0]) for array in arrays)
    means = [array.mean(0).tolist() for array in arrays]
    by_task = zip(*means, _rows(found.task_means), _rows(found.task_improvements), strict=True)
    return {
        "label": label,
        "seeds": one.seeds,
        "missing_seeds": {"here": _missing(other.seeds, one.seeds), "against": _missing(one.seeds, other.seeds)},
        "missing_tasks": {"here": _missing(other.tasks, one.tasks), "against": _missing(one.tasks, other.tasks)},
        "uncounted_tasks": [task for task in one.tasks if task in other.tasks and task not in tasks],
        "interquartile_mean": _row(middle, against, found.interquartile_mean, found.improvement),
        "mean": _row(mean(means[0]), mean(means[1]), found.mean, found.improvement),
        "tasks": {task: _row(*columns) for task, columns in zip(tasks, by_task, strict=True)},
    }


def _missing(wanted: Sequence[Any], there: Sequence[Any]) -> list[Any]:
    return [item for item in wanted if item not in there]


def _rows(band: Band) -> list[Interval]:
    return [Interval(*map(float, values)) for values in zip(*band, strict=True)]


def _row(here: float, there: float, difference: Interval, chance: Interval) -> dict[str, Any]:
    """Two values, their difference and the probability of improvement, with None for unknown bounds."""
    both = {"difference": difference, "probability_of_improvement": chance}
    known = {
        name: {key: value if value == value else None for key, value in interval._asdict().items()}
        for name, interval in both.items()
    }
    return {"here": here, "against": there, **known}


def table(facts: dict[str, Any]) -> str:
    """The comparisons as lines for a terminal."""
    return "\n\n".join("\n".join(_lines(facts, found)) for found in facts["comparisons"]) + "".join(
        f"\nNot finished, and left out: {name}." for name in facts["unfinished"]
    )


def _lines(facts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    label, other, metric = found["label"], facts["against"]["label"], facts["metric"]
    rows = {"interquartile mean": found["interquartile_mean"], "mean": found["mean"], **found["tasks"]}
    seeds = f"{len(found['seeds'])} and {len(facts['against']['seeds'])} seeds"
    heads = ["", label, other, "difference", "95 % interval", "P(improvement)", "95 % interval"]
    cells = [heads, *([name, *_cells(metric, row)] for name, row in rows.items())]
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = [f"{label} against {other}: {metric}, {seeds}"]
    for name, *values in cells:
        sized = zip(values, others, strict=True)
        lines.append(f"{name:<{first}}" + "".join(f"  {value:>{size}}" for value, size in sized))
    return lines + _notes(found, label, other)


def _cells(metric: str, row: dict[str, Any]) -> list[str]:
    change, chance = row["difference"], row["probability_of_improvement"]
    between = "-" if chance["low"] is None else f"{chance['low']:.2f} to {chance['high']:.2f}"
    bounds = [_signed(metric, change[name]) for name in ("low", "high") if change[name] is not None]
    values = [shown(metric, row[name], 1) for name in ("here", "against")]
    return [*values, _signed(metric, change["point"]), " to ".join(bounds) or "-", f"{chance['point']:.2f}", between]


def _notes(found: dict[str, Any], label: str, other: str) -> list[str]:
    """Sentences about missing seeds, tasks and intervals, and about different protocols."""
    named = {
        f"Seeds that {label} lacks": found["missing_seeds"]["here"],
        f"Seeds that {other} lacks": found["missing_seeds"]["against"],
        f"Tasks that {label} lacks, and that are left out": found["missing_tasks"]["here"],
        f"Tasks that {other} lacks, and that are left out": found["missing_tasks"]["against"],
        "Tasks that do not count, and are left out": found["uncounted_tasks"],
    }
    lines = [f"{what}: {', '.join(map(str, items))}." for what, items in named.items() if items]
    if found["mean"]["difference"]["low"] is None:
        lines.append("There are no intervals, as they need two seeds or more on both sides.")
    if found["protocol_differences"]:
        lines.append(f"The protocols differ: {_listed(found['protocol_differences'])}.")
    return lines


def _signed(metric: str, value: float) -> str:
    """A difference as text with its sign. A difference of shares is in percentage points."""
    if not is_share(metric):
        return f"+{shown(metric, value)}" if value > 0 else shown(metric, value)
    return f"{100 * value:+.1f}" if abs(value) >= 0.0005 else "0.0"
