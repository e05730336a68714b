"""A training run on disk: what is logged, evaluated and saved, and when."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import time
from typing import Any

import numpy as np

from mtrl import configs
from mtrl.core.errors import UserError, expected, reading
from mtrl.core.memory import free_bytes, require_room, return_freed_memory
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import Metrics
from mtrl.experiment.company import Company, Order, follow, joined, leads, reseed, take_over
from mtrl.experiment.config import ExperimentConfig, defaults, free_keys, told_apart
from mtrl.experiment.load import load
from mtrl.experiment.parts import Experiment
from mtrl.experiment.pictures import plot_runs
from mtrl.monitoring import checkpoints
from mtrl.monitoring.drawing import SECONDS
from mtrl.monitoring.interrupt import Interrupts, Stopped
from mtrl.monitoring.metrics import MetricLog, read_metrics
from mtrl.monitoring.mirror import Mirror
from mtrl.monitoring.progress import Counter, Progress, say
from mtrl.monitoring.random_state import random_state, seed_process
from mtrl.monitoring.run import RunFolder
from mtrl.training.evaluation import Evaluation
from mtrl.training.trainer import NotFinite


class Session:
    """A training run on disk: the experiment, its folder and its reports. It resumes from the newest checkpoint."""

    def __init__(self, experiment: Experiment, folder: RunFolder, company: Company | None = None) -> None:
        """company: the processes that learn together, of which this one is the first.

        Raises:
            UserError: memory or disk will not suffice, or the folder's checkpoints cannot be used.
        """
        self.experiment, self.folder, self._company = experiment, folder, company or Company()
        config = experiment.config
        self._require_room()
        seed_process(config.seed)
        self.trainer = experiment.trainer.start()
        self._best_score, self._rows = -math.inf, None
        self._reported = True
        """Whether the logging and evaluation due after the last step are done. False in the checkpoint that is saved
        after the first `advance`, before them."""
        self._metrics: Metrics = {}
        """The metrics of the last update. Not every step has one."""
        self.resumed_from = self._resume()
        with contextlib.ExitStack() as stack:
            mirror = Mirror(config.wandb, folder)
            log = MetricLog(folder, self.resumed_from, self._rows, options=told_apart(config), mirror=mirror)
            self.log = stack.enter_context(log)
            folder.begin()
            stack.pop_all()
        self.interrupts = Interrupts()
        self.progress = Progress(config.steps, self.trainer.step, headline=self.trainer.headline)
        self._restart_clock()

    def _require_room(self) -> None:
        """Check, before anything is allocated, that the replay fits into memory and the checkpoints onto the disk."""
        trainer, device, folder = self.experiment.trainer, self.experiment.device, self.folder.checkpoints
        what, needed = "The replay (training.buffer_size)", trainer.data_bytes
        where = "the memory" if device.type == "cpu" else f"the memory of {device}"
        require_room(what, needed, free_bytes(device) if needed else None, where)
        # Two checkpoints are kept, and a third exists while it is written. Data that all three contain is stored once.
        kept = needed + 2 * trainer.changed_bytes(self.experiment.config.training.checkpoint_every)
        there = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*.pt")}
        free = shutil.disk_usage(self.folder.path).free + sum(there.values())
        require_room(what, kept, free, "the disk, with its checkpoints")

    def _restart_clock(self) -> None:
        self._logged = (self.trainer.step, self.trainer.updates, dict(self.trainer.seconds), time.perf_counter())

    def _resume(self) -> int | None:
        """Load the newest complete checkpoint and return its step; None if the run is new.

        Raises:
            UserError: there is no complete checkpoint, though the run has taken steps; or it does not fit the run.
        """
        folder, trainer = self.folder, self.trainer
        rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
        found = checkpoints.newest(folder.checkpoints)
        if found is None:
            if folder.result is not None or any(row["step"] > 0 for row in rows):
                wanted = "a run with a checkpoint to go on from (put it back, or start another run: experiment=NAME)"
                raise expected(f"Run {folder.path}", wanted, "its metrics, and no checkpoint")
            return None
        take_over(trainer, found)
        with reading(found.path, "one that fits the run's config.yaml", "Checkpoint"):
            trainer.seconds |= found.state["seconds"]
            self._best_score, self._rows = found.state.get("best", -math.inf), found.state.get("rows")
            self._metrics, self._reported = found.state.get("metrics", {}), found.state.get("reported", True)
        checkpoints.set_aside(found)
        checkpoints.go_back(folder.checkpoints, trainer.step)
        self._company.tell(Order.RESUME)
        self._company.wait()  # the others read this checkpoint before training goes on and writes a newer one
        return trainer.step

    def run(self) -> dict[str, Any]:
        """Train to the end and return the final result.

        Raises:
            Stopped: there was a signal. The current step was finished and saved first.
            UserError: training met a number that is not finite, and may not go back to a checkpoint.
        """
        config = self.experiment.config
        self.experiment.agent.announce = self.progress.note
        first = self.trainer.random_steps
        if config.steps < first:
            self.progress.note(f"No updates: the first {first} steps (training.learning_starts) are random actions.")
        with self.log, contextlib.closing(self.trainer):
            try:
                with self.interrupts, self.progress:
                    self._train()
            except Stopped:
                self._save()
                raise
            return self._finish()

    def _train(self) -> None:
        """Train to the last step. If numbers become infinite or NaN, continue from a checkpoint (`_go_back`)."""
        while True:
            try:
                return self._train_on()
            except NotFinite as error:
                self._go_back(error)

    def _train_on(self) -> None:
        """Advance the trainer to the last step, and log, evaluate and save at the steps that the options name."""
        trainer, steps, when = self.trainer, self.experiment.config.steps, self.experiment.config.training
        if trainer.step == 0 and when.evaluate_every and when.evaluate_first:
            self._evaluate()
        if not self._reported:
            self._report(0)
        while trainer.step < steps:
            before = trainer.step
            self._company.tell(Order.ADVANCE)
            self._metrics = trainer.advance() or self._metrics
            if before == 0:
                self._reported = False
                self._save()  # so a run that has taken steps always has a checkpoint
            self.progress.update(trainer.step, trainer.updates)
            self._report(before)
            if trainer.step < steps and before and _due(before, trainer.step, when.checkpoint_every):
                self._save()
            self.interrupts.check()
        self._save()

    def _report(self, before: int) -> None:
        """Log and evaluate if the steps after step `before` have made that due."""
        step, steps, when = self.trainer.step, self.experiment.config.steps, self.experiment.config.training
        ends_early = steps <= step < when.log_every  # then only the last step is logged
        if ends_early or _due(before, step, when.log_every):
            self._log()
        if when.evaluate_every and _due(before, step, when.evaluate_every):
            self._evaluate()
        self._reported = True

    def _go_back(self, error: NotFinite) -> None:
        """Go on from the last checkpoint with other random numbers, if the options allow another rollback.

        Raises:
            UserError: no rollback is allowed, or there is no checkpoint.
        """
        trainer, when = self.trainer, self.experiment.config.training
        done, checkpoint = trainer.rollbacks, checkpoints.latest(self.folder.checkpoints)
        if when.on_nonfinite == "stop" or done >= when.max_rollbacks or checkpoint is None:
            last = "There is no checkpoint" if checkpoint is None else f"The last sound checkpoint is {checkpoint}"
            after = f" after {done} rollbacks" if done else ""
            other = ", or training.on_nonfinite=rollback" if when.on_nonfinite == "stop" else ""
            hint = f"A lower learning rate may help{other}."
            raise UserError(f"{error} Training stopped{after}. {last}. {hint}") from error
        step = self._resume()
        self._company.tell(Order.RESEED)
        reseed(trainer, done + 1)
        self.log.go_back(step or 0, self._rows)
        self._restart_clock()
        self.progress.note(f"{error} Rollback {done + 1} of {when.max_rollbacks}, to step {step}.")

    def _log(self) -> None:
        trainer, metrics = self.trainer, self._metrics
        trainer.check_finite(metrics)
        step, updates, seconds, then = self._logged
        now = time.perf_counter()
        elapsed = now - then
        tasks = self.experiment.tasks
        row: dict[str, Any] = {"train/updates": trainer.updates, SECONDS: sum(trainer.seconds.values())}
        if trainer.step > step:  # otherwise the run has just resumed at a step that is not logged yet
            row |= {
                f"throughput/{trainer.unit}_per_second": (trainer.step - step) * trainer.tasks_per_step / elapsed,
                "throughput/updates_per_second": (trainer.updates - updates) / elapsed,
                **{f"throughput/share_{k}": (v - seconds[k]) / elapsed for k, v in trainer.seconds.items()},
            }
        for name, values in trainer.report().items():
            of_mean = values if trainer.counted is None or not values.ndim else values[trainer.counted]
            if np.isfinite(of_mean).any():
                row[f"train/mean_{name}"] = float(np.nanmean(of_mean))
            if values.ndim:
                row[f"train/{name}"] = values
        row |= {name: value.detach().double().cpu().numpy() for name, value in metrics.items()}
        self.log.write(trainer.step, row, tasks)
        affinities = self.experiment.methods.affinities({name: row[name] for name in metrics})
        if affinities:
            self.folder.write_affinities(trainer.step, tasks, affinities)
        self.log.pictures(trainer.step, trainer.pictures)
        self.progress.update(trainer.step, trainer.updates, row.get(f"train/mean_{trainer.headline}"))
        self._restart_clock()

    def _evaluate(self) -> None:
        self.trainer.check_finite(self._metrics)
        training = self.experiment.config.training
        result, facts = self.experiment.evaluate(training.evaluation_episodes, training.protocol)
        self._record(result, facts)
        score = result.mean(result.per_task[result.chosen_by])
        if score > self._best_score:
            self._best_score = score
            checkpoints.save_best(self.folder.checkpoints, self.trainer.step, self.experiment.agent.policy_state())
        return_freed_memory()

    def _record(self, result: Evaluation, facts: dict[str, Any]) -> None:
        step = self.trainer.step
        self.folder.write_evaluation(step, {"step": step, **facts})
        row: dict[str, Any] = {SECONDS: sum(self.trainer.seconds.values())}
        row |= {f"evaluation/mean_{name}": result.mean(v) for name, v in result.per_task.items()}
        row |= {f"evaluation/{name}": values for name, values in result.per_task.items()}
        self.log.write(step, row, list(result.names(self.experiment.tasks)))

    def _save(self) -> None:
        trainer = self.trainer
        trainer.check_finite(self._metrics)
        state = {"trainer": trainer.state_dict(), "random": random_state(), "seconds": dict(trainer.seconds)}
        state |= {"best": self._best_score, "rows": self.log.rows, "reported": self._reported}
        state["metrics"] = {name: value.detach().clone() for name, value in self._metrics.items()}
        checkpoints.save(self.folder.checkpoints, trainer.step, state, trainer.data_state())
        return_freed_memory()

    def _finish(self) -> dict[str, Any]:
        config, trainer, tasks = self.experiment.config, self.trainer, self.experiment.tasks
        episodes, protocol = config.training.final_episodes, config.training.protocol
        facts: dict[str, Any] = {"episodes": 0, "tasks": {}}
        if episodes:
            say(f"Evaluating: {config.training.evaluates(episodes)} of {len(tasks)} task{'s' * (len(tasks) > 1)}.")
            result, facts = self.experiment.evaluate(episodes, protocol, Counter("episodes"))
            self._record(result, facts)
            if trainer.reports_best and config.training.evaluate_every:
                facts["best"] = self._best(f"mean_{result.headline}", f"mean_{result.chosen_by}")
        final = {
            "steps_per_task": trainer.step,
            "steps_total": trainer.step * trainer.tasks_per_step,
            "updates": trainer.updates,
            "reported": "final policy, no maximum over training",
            "training_seconds": {k: round(v, 1) for k, v in trainer.seconds.items()},
            "config": configs.plain(config),
            **trainer.facts(),
            **facts,
        }
        checkpoints.save_policy(self.folder.policy, trainer.step, self.experiment.agent.policy_state())
        self.folder.finish(final)
        plot_runs([self.folder.path])
        return final

    def _best(self, name: str, chosen_by: str) -> dict[str, Any]:
        """The step and values of the evaluation with the largest value of `chosen_by`, the first of equal ones."""
        found = [row for row in read_metrics(self.folder.metrics) if row.get(f"evaluation/{chosen_by}") is not None]
        best = max(found, key=lambda row: row[f"evaluation/{chosen_by}"])
        return {key: best[f"evaluation/{key}"] for key in dict.fromkeys((name, chosen_by))} | {"step": best["step"]}


def _due(before: int, now: int, every: int) -> bool:
    """Whether the steps after `before` up to `now` contain a multiple of `every`."""
    return now // every > before // every


def train(config: ExperimentConfig) -> tuple[Experiment, RunFolder, dict[str, Any]]:
    """Train the run that the configuration describes. Returns its parts, its folder and its result.

    A run that has stopped continues from its newest checkpoint. A finished run is not trained again.

    Raises:
        UserError: the parts do not fit, the folder holds another run, or training fails (see `Session`).
        Stopped: there was a signal; the run can be continued.
    """
    with joined() as company:
        return _lead(config, company) if leads() else follow(config, company)


def _lead(config: ExperimentConfig, company: Company) -> tuple[Experiment, RunFolder, dict[str, Any]]:
    experiment = Experiment(config)
    saved = configs.plain(config)
    with RunFolder.open(experiment.path, saved, ignore=free_keys(config), defaults=defaults(config)) as folder:
        if folder.status == "finished" and folder.result is not None:
            return experiment, folder, folder.result
        try:
            if config.start:
                experiment.trainer.begin_from(functools.partial(_guide, config.start, experiment))
            session = Session(experiment, folder, company)
            experiment.trainer.load_guide()
        except (UserError, OSError):
            folder.discard()
            raise
        if session.resumed_from is not None:
            say(f"Going on from step {session.resumed_from} of {folder.path}.")
        else:
            say(f"New run {folder.path}: {config.steps:,} steps, tasks: {len(experiment.tasks)}.")
        return experiment, folder, session.run()


def _guide(run: str, experiment: Experiment) -> tuple[Any, int]:
    """The policy of another run, from which an experiment's training starts (`Trainer.begin_from`), and its step.

    Raises:
        UserError: no run can start from this kind of run, or its observations or actions have other sizes.
    """
    other, _, step = load(run, str(experiment.device))
    needed, found = (_sizes(part.suite.spec) for part in (experiment, other))
    if found != needed:
        raise expected(f"Run {run}", f"a run with {needed}", found)
    return other.trainer.guide(), step


def _sizes(spec: Spec) -> str:
    if not isinstance(spec, ControlSpec):
        return "data that are not observations and actions"
    return f"observations of {spec.observation_size} numbers and actions of {spec.action_size}"
