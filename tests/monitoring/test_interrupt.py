"""Signals end a run between whole steps, and only the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl.monitoring import checkpoints
from mtrl.monitoring.interrupt import SIGNALS, Interrupts, Stopped
from tests.support.tiny_runs import TINY
from tests.support.waiting import PATIENCE, wait_for

SENT = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"]


@pytest.mark.parametrize("name", SENT)
def test_every_signal_of_a_scheduler_waits_for_the_step(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_forked_helper_ends_by_the_signal_and_never_saves(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from mtrl.monitoring.interrupt import Interrupts
with Interrupts() as interrupts:
    helper = os.fork()
    if not helper:
        try:
            os.kill(os.getpid(), {int(number)})
            interrupts.check()
            open("ran", "w")
        finally:
            open("unwound", "w")
            os._exit(0)
    _, status = os.waitpid(helper, 0)
    interrupts.check()
    sys.exit(os.waitstatus_to_exitcode(status) != -{int(number)})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=PATIENCE)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
def test_a_signal_leaves_a_checkpoint_of_the_step_it_came_in(name: str, tmp_path: Path) -> None:
    options = [*TINY, "steps=1000000", "training.checkpoint_every=1000000", "experiment=x"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mtrl.cli", "train", *options], cwd=tmp_path, stderr=subprocess.PIPE
    )
    metrics = tmp_path / "runs/toy/x/seed_1/metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and error.decode().splitlines()[-1].startswith("mtrl: interrupted")
    saved = checkpoints.latest(metrics.parent / "checkpoints")
    assert saved is not None and checkpoints.load(saved)["trainer"]["step"] == checkpoints.step_of(saved) >= 20
