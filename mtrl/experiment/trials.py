"""Sweeps on Ray: each run of a sweep is `mtrl train` in a process of its own, on any machine of a cluster.

The state of a sweep is in the runs' folders, which all machines share. A trial whose process or worker has died is
started again from its newest checkpoint. The same sweep, started again, continues all trials that have not finished.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mtrl import configs
from mtrl.core.cluster import connected
from mtrl.core.config import Options, check, option
from mtrl.core.errors import expected
from mtrl.experiment.asha import ASHA
from mtrl.experiment.config import ExperimentConfig, defaults, free_keys, run_name
from mtrl.experiment.processes import run_in_worker
from mtrl.experiment.search import Search
from mtrl.monitoring.interrupt import Interrupts
from mtrl.monitoring.metrics import parse_row, read_metrics
from mtrl.monitoring.progress import Block
from mtrl.monitoring.run import RunFolder, run_path
from mtrl.monitoring.statistics import shown

_INTERVAL = 1.0
"""Seconds between two checks of the trials."""
_REFUSED = 2
"""The exit code for a UserError, which would occur again if the trial were started again."""


@dataclass
class SweepConfig(Options):
    """Options of a sweep on Ray, `ray.<name>` on the command line."""

    option_group: ClassVar[str] = "ray"

    address: str = ""
    """The cluster: host:port, or auto for that of the environment variable RAY_ADDRESS, or else the one that this
    machine is part of. If not given, RAY_ADDRESS is used; without that, only this machine."""
    cpus: int = option(1, "a positive integer")
    """The number of cores, and of threads, of each trial."""
    gpus: float = option(0.0, "0 or more")
    """The number of GPUs of each trial. With a fraction, several trials share a GPU."""
    restarts: int = option(3, "0 or more")
    """How many times, at most, a trial that has died is started again."""
    asha: int = option(0, "0 or more")
    """Steps after which trials are first compared and the worse ones are stopped (ASHA); 0 for never."""
    keep: int = option(3, "2 or more")
    """With asha, η: one in η trials continues, and each comparison is at η times the steps of the one before."""
    metric: str = "train/mean_success"
    """With asha or a search: the name of the metric in metrics.jsonl that is compared. Larger is better."""
    trials: int = option(20, "a positive integer")
    """With a search (options given as log(LOW,HIGH) or interval(LOW,HIGH)): the number of trials in all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.gpus <= 1 or self.gpus % 1 == 0, "ray.gpus", "at most 1, or a whole number", self.gpus)


@dataclass
class Trial:
    """One run of a sweep."""

    words: list[str]
    """Its overrides."""
    config: ExperimentConfig
    label: str
    """The overrides in which it differs from other trials."""
    state: str = "waiting"
    """waiting, running, finished, stopped (because others are better) or failed."""
    restarts: int = 0
    why: str = ""
    """Why it failed."""
    path: Path = field(init=False)
    step: int = field(init=False, default=0)
    value: str = field(init=False, default="")
    """The last success, accuracy or return in its rows, as text."""
    _read: int = field(init=False, default=0)
    _logged: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        config = self.config
        self.path = run_path(config.runs, config.benchmark.name, run_name(config), config.seed).absolute()
        settings: dict[str, Any] = {"ignore": free_keys(config), "defaults": defaults(config)}
        if RunFolder.is_finished(self.path, configs.plain(config), **settings):
            self.state = "finished"
        self._logged = self._log_size

    @property
    def _log_size(self) -> int:
        return _size(self.path.with_suffix(".log"))

    def submitted(self) -> None:
        """Mark the trial as waiting for its process, whose first line in the log will show that it has begun."""
        self.state, self._logged = "waiting", self._log_size

    def look(self) -> list[dict[str, Any]]:
        """Check whether the trial has begun. Returns the rows added to its metrics since the last check."""
        if self.state == "waiting" and self._log_size > self._logged:
            self.state = "running"
        metrics = self.path / "metrics.jsonl"
        if _size(metrics) <= self._read:  # a run that has gone back to a checkpoint rewrites rows
            self._read = min(self._read, _size(metrics))
            return []
        with metrics.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")
        self._read += len(whole[0]) + len(whole[1])
        lines = whole[0].decode(errors="replace").splitlines()
        rows = [parse_row(line, f"A line of {metrics}") for line in lines if line.startswith("{")]
        for row in rows:
            self._note(row)
        return rows

    def _note(self, row: dict[str, Any]) -> None:
        self.step = row["step"]
        for prefix in ("evaluation", "train"):
            for name in ("success", "accuracy", "return"):
                if row.get(f"{prefix}/mean_{name}") is not None:
                    self.value = f"{name} {shown(name, row[f'{prefix}/mean_{name}'])}"
                    return

    def last(self, metric: str) -> float | None:
        """The last value of a metric; None if it has none."""
        rows = read_metrics(self.path / "metrics.jsonl") if _size(self.path / "metrics.jsonl") else []
        return next((row[metric] for row in reversed(rows) if row.get(metric) is not None), None)

    @property
    def result(self) -> dict[str, Any] | None:
        return RunFolder.load(self.path).result if self.state == "finished" else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def trials_of(words: Sequence[list[str]], runs: Sequence[ExperimentConfig]) -> list[Trial]:
    """The trials of a sweep. words: the overrides of each run."""
    varied = [i for i, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
    labels = [" ".join(word for i, word in enumerate(run) if i in varied or not varied) for run in words]
    return [Trial(*parts) for parts in zip(words, runs, labels, strict=True)]


def run_trials(
    trials: list[Trial], options: SweepConfig, imports: Sequence[str] = (), search: Search | None = None
) -> None:
    """Run the unfinished trials of a sweep, as many at a time as the cluster has room for.

    After a first signal, all trials finish and save their current step, and the sweep ends.

    Args:
        trials: their `state` is updated. With a search, the list is empty at first, and proposed trials are appended.
        imports: modules that every trial imports.
        search: proposes trials.

    Raises:
        UserError: Ray is missing, there is no such cluster, or a trial failed.
        Stopped: there was a signal. The same sweep can be started again.
    """
    if search is not None or any(trial.state != "finished" for trial in trials):
        with connected("A sweep", options.address, "ray.address") as ray, Interrupts() as interrupts:
            _Sweep(ray, trials, options, imports, search).run(interrupts)
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        first = f"{len(failed)} that are not, first: {failed[0].label} ({failed[0].why}; see {failed[0].path}.log)"
        raise expected("Every trial", "completed", first)


class _Sweep:
    """The trials under way."""

    def __init__(
        self, ray: Any, trials: list[Trial], options: SweepConfig, imports: Sequence[str], search: Search | None
    ) -> None:
        self._ray, self._trials, self._options, self._search = ray, trials, options, search
        self._proposed: defaultdict[int, list[int]] = defaultdict(list)
        """Index of a trial -> its numbers in the search, which may propose the same run more than once."""
        self._imports = [word for module in imports for word in ("--import", module)]
        needs = {"num_cpus": options.cpus, "num_gpus": options.gpus, "max_retries": 0}
        self._task = ray.remote(**needs)(run_in_worker)
        self._running: dict[Any, int] = {}
        self._asha = ASHA(options.metric, options.asha, options.keep) if options.asha else None
        self._block = Block()

    def run(self, interrupts: Interrupts) -> None:
        self._look(range(len(self._trials)))
        for number, trial in enumerate(self._trials):
            if trial.state == "finished":
                self._say(number, "had already finished")
            elif not self._stops(number):
                self._submit(number)
        self._propose()
        self._check_room()
        with self._block:
            while self._running:
                done, _ = self._ray.wait([*self._running], timeout=_INTERVAL)
                self._look(self._running.values())
                for task in done:
                    self._end(number := self._running.pop(task), task)
                    self._tell(number)
                for task, number in self._running.items():
                    if self._trials[number].state == "running" and self._stops(number):
                        self._ray.cancel(task)
                if interrupts.pending:
                    self._stop()
                    interrupts.check()
                self._propose()
                self._block.show(self._table())

    def _propose(self) -> None:
        """Start trials that the search proposes, as many as the cluster has room for."""
        while self._search and len(self._running) < self._room and (asked := self._search.ask()):
            trial = Trial(asked[1], self._search.config(asked[1]), self._search.label(asked[1]))
            paths = [*(other.path for other in self._trials), trial.path]
            number = paths.index(trial.path)
            self._proposed[number].append(asked[0])
            if number < len(self._trials):
                self._tell(number)
                continue
            self._trials.append(trial)
            self._look([number])
            if trial.state == "finished" or self._stops(number):
                self._tell(number)
            else:
                self._submit(number)

    def _tell(self, number: int) -> None:
        """Tell the search the result of a trial that has ended."""
        trial = self._trials[number]
        if self._search and trial.state in ("finished", "stopped", "failed"):
            value = trial.last(self._search.metric)
            for proposal in self._proposed[number]:
                self._search.tell(proposal, value)

    @property
    def _room(self) -> int:
        """How many trials the cluster can run at once; 1 if it cannot run any yet."""
        found, needs = self._ray.cluster_resources(), {"CPU": self._options.cpus, "GPU": self._options.gpus}
        return max(1, int(min(found.get(kind, 0) / need for kind, need in needs.items() if need)))

    def _submit(self, number: int) -> None:
        trial = self._trials[number]
        trial.submitted()
        # A trial's collectors must join this cluster instead of starting another one.
        env = {"RAY_ADDRESS": self._ray.get_runtime_context().gcs_address}
        if not self._options.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ""
        command = ["train", *self._imports, *trial.words]
        task = self._task.remote(command, trial.path, Path.cwd(), self._options.cpus, env)
        self._running[task] = number

    def _check_room(self) -> None:
        """Print a line if no machine can run a trial. The sweep then waits for a suitable machine to join."""
        cpus, gpus = self._options.cpus, self._options.gpus
        found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if self._running and not any(r.get("CPU", 0) >= cpus and r.get("GPU", 0) >= gpus for r in found):
            self._block.note(f"No machine here has ray.cpus={cpus} and ray.gpus={gpus:g}: waiting for one to join.")

    def _look(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            trial = self._trials[number]
            before, rows = trial.state, trial.look()
            if self._asha is not None:
                for row in rows:
                    self._asha.add(number, row)
            if trial.state != before:
                self._say(number, f"begins, {trial.label}")

    def _stops(self, number: int) -> bool:
        """Whether to stop a trial because others are better. If so, its state becomes stopped."""
        trial = self._trials[number]
        if self._asha is None or not self._asha.stops(number):
            return False
        if trial.state != "stopped":
            trial.state = "stopped"
            self._say(number, f"is stopped at step {trial.step:,} ({trial.value}), as others are better")
        return True

    def _end(self, number: int, task: Any) -> None:
        """Decide what to do after a trial's process has ended."""
        trial, errors = self._trials[number], self._ray.exceptions
        try:
            found = self._ray.get(task)
        except errors.TaskCancelledError:
            found = "it was stopped"
        except errors.RayTaskError as error:
            found = f"an error, {error.cause}"
        except errors.RayError as error:
            found = -1, f"its worker has died, {type(error).__name__}"
        if trial.state == "stopped":
            return
        code, why = found if isinstance(found, tuple) else (found, f"exit code {found}")
        if code == 0:
            trial.state = "finished"
            self._say(number, f"has finished, {trial.value}")
        elif isinstance(code, str) or code == _REFUSED or trial.restarts >= self._options.restarts:
            trial.state, trial.why = "failed", code if isinstance(code, str) else why
            self._say(number, f"has failed: {trial.why}")
        else:
            trial.restarts += 1
            self._say(number, f"has ended early ({why}) and is started again, restart {trial.restarts}")
            self._submit(number)

    def _stop(self) -> None:
        """Let all trials save their current step."""
        self._block.note("Each trial finishes its current step and saves it.")
        for task in self._running:
            self._ray.cancel(task)
        self._ray.wait([*self._running], num_returns=len(self._running))

    def _say(self, number: int, what: str) -> None:
        self._block.note(f"Trial {number + 1} of {len(self._trials)} {what}")

    def _table(self) -> list[str]:
        states = [trial.state for trial in self._trials]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        restarts = sum(trial.restarts for trial in self._trials)
        lines = [f"{len(states)} trials: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
        lines[0] += f"; {restarts} restarts" if restarts else ""
        running = [trial for trial in self._trials if trial.state == "running"]
        room = max(os.get_terminal_size(2).lines - 3, 1) if os.isatty(2) else len(running)
        width = max((len(trial.label) for trial in running), default=0)
        for trial in running[:room]:
            share = min(trial.step / trial.config.steps, 1)
            lines.append(f"  {trial.label:<{width}}  {share:>4.0%} of {trial.config.steps:,} steps  {trial.value}")
        return lines
