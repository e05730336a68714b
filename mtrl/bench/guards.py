"""mtrl bench guards: the share of a run's time taken by checks for NaN and infinity, and by checkpoints."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mtrl.bench.report import interleaved, machine
from mtrl.core.types import Transitions
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.experiment.session import Session
from mtrl.monitoring import checkpoints
from mtrl.monitoring.progress import counted
from mtrl.monitoring.run import RunFolder

RUNS = {"sac": ["benchmark=mt10", "training.learning_starts=100"], "ppo": ["recipe=quick"]}
"""Options of the runs. SAC's are the defaults, except for an early first update: later updates cost the same."""
QUICK = ["network.width=16", "training.checkpoint_every=200", "training.log_every=50"]
QUICK_OF = {"sac": ["agent.batch_size=8"], "ppo": ["training.rollout_steps=4", "agent.minibatches=1"]}
ROUNDS, STEPS = 6, 10
"""Number of timed rounds, and the steps of SAC in each. A round of PPO is a whole rollout."""
MOST_OF_UPDATES, MOST_OF_RUN = 0.01, 0.02
"""The largest accepted shares: of a check in the time of updates, and of a checkpoint in the time of a run."""
_ROWS = 1000
"""Transitions of each task that are added to a replay at once."""


def measure(quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Milliseconds of a step of every task, of its updates, of a check for NaN and infinity, and of a checkpoint.

    A checkpoint includes a check, and is written to the folder `runs/`.

    `check_of_updates` is the time of one check divided by the time of the updates between two checks.
    `checkpoint_of_run` is the time of one checkpoint divided by the time between two checkpoints. Whenever a replay is
    saved, it has `checkpoint_every` new transitions of each task, and `saved_mb` are written. `holds` says whether the
    two shares are below 1 % and 2 %.
    """
    rows = [_row(name, quick, device) for name in RUNS]
    return {"bench": "guards", "device": device, "machine": machine(), "rows": rows}


@contextlib.contextmanager
def _session(options: list[str]) -> Iterator[Any]:
    """A new run in a temporary folder in `runs/`, beside other runs."""
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="runs") as runs:
        experiment = Experiment(compose([*options, f"runs={runs}"]))
        with RunFolder.open(experiment.path, {}) as folder:
            session = Session(experiment, folder)
            with session.log, contextlib.closing(session.trainer):
                yield session


def _row(name: str, quick: bool, device: str) -> dict[str, Any]:
    with _session([*RUNS[name], f"device={device}", *(QUICK + QUICK_OF[name] if quick else [])]) as session:
        trainer, when = session.trainer, session.experiment.config.training
        _steps(session, getattr(when, "learning_starts", 0))
        count, rounds = getattr(when, "rollout_steps", STEPS), 1 if quick else ROUNDS
        _steps(session, count)
        steps = [_steps(session, count) for _ in counted(range(rounds), "rounds")]
        checks = interleaved({"check": lambda: trainer.check_finite(session._metrics)}, 5 * rounds)["check"]
        saves = [_save(session, when.checkpoint_every) for _ in counted(range(1 + rounds), "checkpoints")][1:]
    step, update = (median(values) for values in zip(*steps, strict=True))
    check, save = median(checks), median([seconds for seconds, _ in saves])
    row = {"learner": name, "step_ms": 1e3 * step, "update_ms": 1e3 * update, "check_ms": 1e3 * check}
    row |= {"checkpoint_ms": 1e3 * save, "saved_mb": saves[-1][1]}
    of_updates, of_run = check / (update * when.log_every), save / (step * when.checkpoint_every)
    row |= {"check_of_updates": of_updates, "checkpoint_of_run": of_run}
    return row | {"holds": of_updates < MOST_OF_UPDATES and of_run < MOST_OF_RUN}


def _steps(session: Any, count: int) -> tuple[float, float]:
    """Take `count` steps of every environment. Returns seconds per step of each task: in all, and in updates."""
    trainer, before, begin = session.trainer, session.trainer.seconds["update"], time.perf_counter()
    first = trainer.step
    for _ in range(count):
        session._metrics = trainer.advance() or session._metrics
    if trainer.agent.device.type == "cuda":
        torch.cuda.synchronize()
    done = max(1, trainer.step - first)
    return (time.perf_counter() - begin) / done, (trainer.seconds["update"] - before) / done


def _save(session: Any, every: int) -> tuple[float, float]:
    """Save a checkpoint, as if `every` steps after the last one. Returns seconds, and megabytes written."""
    trainer = session.trainer
    if hasattr(trainer, "replay"):
        _fill(trainer, every)
    trainer.step += every
    begin = time.perf_counter()
    session._save()
    seconds, saved = time.perf_counter() - begin, checkpoints.latest(session.folder.checkpoints)
    assert saved is not None
    written = [file.stat() for file in saved.rglob("*.pt")]  # hard links to earlier files are not written
    return seconds, sum(stat.st_size for stat in written if stat.st_nlink == 1) / 1e6


def _fill(trainer: Any, count: int) -> None:
    """Add `count` random transitions of each task. They take as long to save as real ones."""
    spec = trainer.suite.spec
    for first in range(0, count, _ROWS):
        shape = (spec.num_tasks, min(_ROWS, count - first))
        observation, action = (torch.rand(*shape, n) for n in (spec.observation_size, spec.action_size))
        trainer.replay.add(Transitions(observation, action, torch.rand(shape), observation, torch.zeros(shape)))
