"""Studies: the runs that a `study.yaml` names (`study_file`) are made and kept, summarised in a table and drawn.

Runs are ordinary runs in `runs/<study>/`: finished ones are not repeated, and others continue where they stopped.
Beside the study, `<label>/seed_<n>/` keeps what a reader needs of a finished run, including its policy.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from mtrl.core.config import check
from mtrl.core.cores import free_cores
from mtrl.core.errors import expected
from mtrl.core.records import require
from mtrl.core.registry import imported
from mtrl.experiment.config import ExperimentConfig, compose, compose_all, run_name
from mtrl.experiment.load import evaluate_run
from mtrl.experiment.pictures import plot_runs, plot_summary
from mtrl.experiment.processes import start, tied
from mtrl.experiment.rungs import Rungs
from mtrl.experiment.runs import SOLVED, Scores
from mtrl.experiment.study_file import Study, check_overrides
from mtrl.monitoring.files import write_json
from mtrl.monitoring.interrupt import Interrupts
from mtrl.monitoring.progress import say
from mtrl.monitoring.run import POLICY, read_result, run_path
from mtrl.monitoring.statistics import interquartile_mean, is_share, rliable

KEPT = ("config.yaml", "metrics.jsonl", "result.json", "provenance.json", POLICY)
"""The files of a finished run that are copied into the study's folder."""
GUESSED = 0.2
"""A task counts only if no control solves more than this share of its episodes."""
TOLERANCE = 0.03
"""How much a mean score may differ when a kept policy is evaluated again, on a processor with other rounding.
For scores above 1, it is a share of the score."""
_NEEDED = {"headline": str, "seed": int, "steps_total": int, "updates": int, "training_seconds": {str: float}}
"""The entries that a study needs in a result besides scores, and their types."""
_STDERR = 2
"""The file descriptor of this process's standard error."""


def run_study(path: Path, labels: Sequence[str], overrides: Sequence[str], jobs: int = 1) -> None:
    """Train the missing and unfinished runs, `jobs` at a time, and keep the files `KEPT` of each.

    labels: those to train, all if empty; overrides: further ones for every run, which take precedence.

    Raises:
        UserError: the study, a label or an override is wrong, or rliable is missing (all before the first run), or a
            run or a `prepare` failed.
    """
    study = Study.read(path)
    check_overrides(overrides)
    every = [(label, seed) for label in study.chosen(labels) for seed in study.seeds[label]]
    if study.halving:
        check(not labels, "A study that halves its runs", "repeated as a whole, without labels", " ".join(labels))
    if max(map(len, study.seeds.values())) > 1:
        rliable()  # the summary needs it for intervals
    compose_all(study.command(*run, overrides) for run in every)
    with (processes := _Processes()), ThreadPoolExecutor(jobs) as pool:
        for line in study.prepare:
            code = pool.submit(processes.mtrl, shlex.split(line)).result()
            processes.check()
            if code:
                raise expected(f"mtrl {line}", "able to finish", "an error, see above")
        if not study.halving:
            _make(study, processes, pool, every, overrides, alone=jobs == 1)
        for rung, factor in enumerate(study.halving):
            due = (rungs := Rungs(study.folder, study.seeds, study.halving)).missing(rung)
            _make(study, processes, pool, due, overrides, alone=jobs == 1, factor=factor)
            rungs.keep([(*run, _read_score(study.place(*run))[1]) for run in due])


def _make(
    study: Study,
    processes: _Processes,
    pool: ThreadPoolExecutor,
    runs: Sequence[tuple[str, int]],
    overrides: Sequence[str],
    alone: bool,
    factor: int = 1,
) -> None:
    """Train runs (label, seed) up to `factor` times their steps, and keep them. alone: one at a time, without logs."""
    commands = [study.command(*run, overrides) for run in runs]
    configs = [compose(command) for command in commands]
    if factor != 1:
        commands = [[*command, f"steps={factor * of.steps}"] for command, of in zip(commands, configs, strict=True)]
    codes = [*pool.map(functools.partial(_one, study, processes, alone), commands, configs)]
    processes.check()
    failed = [shlex.join(command) for command, code in zip(commands, codes, strict=True) if code]
    if failed:
        raise expected("Every run", "completed", f"{len(failed)} that are not, first: mtrl train {failed[0]}")


def report(path: Path) -> dict[str, Any]:
    """Write `summary.json` and the pictures of the kept runs. Returns the summary. Raises UserError if none is kept."""
    study = Study.read(path)
    labels = [label for label in study.runs if study.kept(label)]
    if not labels:
        raise expected(f"Study {study.folder}", "with a finished run that is kept", "none")
    facts = summary(study, labels)
    write_json(study.folder / "summary.json", facts)
    for name, kind in study.pictures.items():
        if kind == "scores":
            plot_summary(facts, study.controls, study.folder / name)
        else:
            folders = [folder for label in study.runs for folder in study.kept(label, "metrics.jsonl")]
            look = {"headline": study.metric, "title": study.title, "lines": study.lines}
            plot_runs(folders, study.folder / name, kind, **look)
    return facts


def summary(study: Study, labels: Sequence[str]) -> dict[str, Any]:
    """{"title", "counted": the tasks that no control solves (`GUESSED`), "runs": {label: scores of its kept runs}}.

    Raises UserError if runs differ in what `equal` names. With halving, only runs that end in the same rung must agree.
    """
    equal = {study.equal: float} if study.equal else {}
    results = {label: [_read(folder, equal) for folder in study.kept(label)] for label in labels}
    kept = Rungs(study.folder, study.seeds, study.halving) if study.halving else None
    rungs = {label: kept.means(label) for label in results} if kept else {}
    if study.equal:
        budgets = {label: sorted({run[study.equal] for run in runs}) for label, runs in results.items()}
        reached = {(len(rungs.get(label, [])), budget) for label, found in budgets.items() for budget in found}
        if len(reached) > len({rung for rung, _ in reached}):
            raise expected("The runs of a study", f"of equal {study.equal}", budgets)
    rows = {label: _row(runs) for label, runs in results.items()}
    for label, means in rungs.items():
        rows[label]["rungs"] = [round(value, 4) for value in means]
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row["tasks"]))
    guessed = [Scores.of([run]) for label in study.controls for run in results.get(label, [])]
    counted = [task for task in tasks if all(of.on([task]).max() <= GUESSED for of in guessed if task in of.tasks)]
    for row in rows.values():
        row["solved"] = sum(row["tasks"].get(t, 0.0) >= SOLVED for t in counted) if is_share(row["metric"]) else None
    return {"title": study.title, "counted": counted, "runs": rows}


def check_study(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Evaluate the kept policies of `labels`, or of all, again. Yields (run, kept mean score, new one) for each.

    Raises UserError if a label is unknown, or if one of `labels`, or the whole study, has no kept policy; and after the
    last run, if scores differ by more than `TOLERANCE`.
    """
    study, other = Study.read(path), list[str]()
    kept = {label: study.kept(label, POLICY) for label in study.chosen(labels)}
    if not (all if labels else any)(kept.values()):
        lacking = [label for label in kept if not kept[label]]
        raise expected(f"Labels of {study.folder} to check", "ones with a kept policy", lacking)
    for folder in [folder for folders in kept.values() for folder in folders]:
        before, score = _read_score(folder)
        again = evaluate_run(folder, before["episodes"], before["protocol"], keep=False)[2]
        run, now = f"{folder.parent.name}/{folder.name}", float(again[f"mean_{before['headline']}"])
        yield run, score, now
        if abs(score - now) > TOLERANCE * max(1.0, abs(score)):
            other.append(run)
    if other:
        limit = f"within {TOLERANCE} (above 1, this share) of those that were kept"
        raise expected("Scores of kept policies", limit, ", ".join(other))


def _one(study: Study, processes: _Processes, alone: bool, command: list[str], config: ExperimentConfig) -> int:
    """Train one run, and keep its files. Returns the exit code."""
    path = run_path(config.runs, config.benchmark.name, run_name(config), config.seed)
    flags = [word for module in imported for word in ("--import", module)]
    code = processes.mtrl(["train", *command, *flags], None if alone else path.with_suffix(".log"))
    if code == 0:
        kept = study.folder / config.experiment / path.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (path / name).is_file():
                shutil.copyfile(path / name, kept / name)
    return code


class _Processes(Interrupts):
    """Runs commands in processes of their own. They are not in this process's group, to which a terminal sends signals,
    so this class passes each signal on to them once. They then save and end, and no further one starts."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()  # taken by worker threads and by `handle`, so that no thread waits for itself
        self._running: set[subprocess.Popen[Any]] = set()

    def handle(self, number: int) -> None:
        with self._lock:
            self.pending = True
            for process in self._running:
                process.send_signal(number)

    def mtrl(self, arguments: list[str], log: Path | None = None) -> int:
        """Run a command of mtrl. Returns its exit code. With a log, it is silent, on its own core if one is free."""
        with free_cores(1) if log else contextlib.nullcontext([]) as cores:
            with self._lock:
                if self.pending:
                    return 1
                say(f"== mtrl {shlex.join(arguments)}")
                # stdout is for the study's result, so without a log, a run's output goes to stderr.
                options: Any = {"log": log, "threads": 1, "prefix": tied(cores)} if log else {"stdout": _STDERR}
                process = start(arguments, **options)
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.remove(process)
        return code


def _read(folder: Path, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return read_result(folder / "result.json", {**_NEEDED, **(further or {})})


def _read_score(folder: Path) -> tuple[dict[str, Any], float]:
    """A result and its mean score."""
    result = _read(folder)
    name = f"mean_{result['headline']}"
    require(result, {name: float}, f"File {folder / 'result.json'}")
    return result, float(result[name])


def _row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of one label: its budget, and its scores over seeds and tasks."""
    scores = Scores.of(runs)
    means = [mean(values) for values in scores.on(scores.counted).tolist()]
    middle = scores.interquartile_mean
    deltas = [round(run["delta_mtl"], 3) for run in runs if run.get("delta_mtl") is not None]
    return {
        "metric": scores.metric,
        "seeds": scores.seeds,
        "episodes": runs[0]["episodes"],
        "steps_total": sorted({run["steps_total"] for run in runs}),
        "updates": sorted({run["updates"] for run in runs}),
        "training_seconds": [round(sum(run["training_seconds"].values())) for run in runs],
        "mean_of_each_seed": [round(value, 4) for value in means],
        "mean": mean(means),
        "interquartile_mean": middle.point,
        "interval_95": [middle.low, middle.high] if len(runs) > 1 else None,
        "tasks": dict(zip(scores.tasks, map(mean, scores.values.T.tolist()), strict=True)),
    } | ({"delta_mtl_of_each_seed": deltas} if deltas else {})


def _further(row: Mapping[str, Any]) -> dict[str, str]:
    """The table's cells in columns that only some studies have."""
    cells, scale = dict[str, str](), 100 if is_share(row["metric"]) else 1
    if deltas := row.get("delta_mtl_of_each_seed"):
        delta = interquartile_mean([[value] for value in deltas])
        cells["Δ_MTL"] = f"{delta.point:+.1f} %"
        cells["its interval"] = f"{delta.low:+.1f} to {delta.high:+.1f}" if len(deltas) > 1 else "-"
    if "rungs" in row:
        cells["rungs"] = "  " + ", ".join(f"{value * scale:.1f}" for value in row["rungs"])
    return cells


def table(facts: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal."""
    width = max(map(len, facts["runs"]), default=0)
    further = {label: _further(row) for label, row in facts["runs"].items()}
    columns = list(dict.fromkeys(name for cells in further.values() for name in cells))
    heads = ["seeds", "mean", "IQM", "95 % interval", "solved", "minutes", *columns]
    lines = [f"{'run':<{width}}" + "".join(f"{head:>15}" for head in heads)]
    for label, row in facts["runs"].items():
        scale, unit = (100, " %") if is_share(row["metric"]) else (1, "")
        low, high = row["interval_95"] or (float("nan"), float("nan"))
        values = [f"{row[name] * scale:.1f}{unit}" for name in ("mean", "interquartile_mean")]
        between = f"{low * scale:.1f}–{high * scale:.1f}" if row["interval_95"] else "-"
        minutes = f"{mean(row['training_seconds']) / 60:.1f}"
        of = len(set(facts["counted"]) & set(row["tasks"]))
        solved = "-" if row["solved"] is None else f"{row['solved']} of {of}"
        cells = [len(row["seeds"]), *values, between, solved, minutes]
        cells += [further[label].get(name, "-") for name in columns]
        lines.append(f"{label:<{width}}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)
