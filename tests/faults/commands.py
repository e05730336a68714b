"""`mtrl` commands in processes that may be killed, and all that a run leaves."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl import cli
from mtrl.monitoring import checkpoints
from mtrl.monitoring.metrics import read_metrics

Fact = dict[str, Any]
PATIENCE = 600.0
"""Seconds for a command, after which it hangs."""


class Command:
    """An `mtrl` command in a process of its own; its output is in a file beside its folder."""

    def __init__(self, words: list[str], folder: Path, name: str = "output", largest_file: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder.with_name(f"{folder.name}-{name}.txt")
        self.output.unlink(missing_ok=True)
        self.modules = self.output.with_suffix(".modules")
        self.code: int | None = None
        self.process = os.fork()
        if not self.process:
            os._exit(self._run(words, folder, largest_file))

    def _run(self, words: list[str], folder: Path, largest_file: int | None) -> int:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # on Linux it ends with this process
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        random.seed()  # random states are those of a new process
        np.random.seed()
        torch.seed()
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        try:
            return cli.main(words)
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()
            self.modules.write_text("\n".join(sys.modules))

    def ended(self, block: bool = False) -> bool:
        if self.code is None:
            process, status = os.waitpid(self.process, 0 if block else os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code is not None

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = PATIENCE) -> bool:
        """Wait until something is so, or seconds have passed; False where the command ends before."""
        end = time.monotonic() + seconds
        while not self.ended():
            if until() or time.monotonic() > end:
                return True
            time.sleep(0.0005)
        return False

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        self.ended(block=True)

    def begun(self) -> bool:
        """Whether the run is built, and goes on or begins."""
        text = self.text()
        return "Going on from step" in text or "New run" in text

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def finish(self) -> Command:
        if self.wait():
            self.kill()
        return self


def run_in(folder: Path) -> Path:
    return next(folder.glob("runs/*/x/seed_1"))


def outcome(run: Path) -> Fact:
    """All that a run leaves in its folder, without times."""
    found = checkpoints.newest(run / "checkpoints")
    best = checkpoints.best(run / "checkpoints")
    assert found is not None
    return {
        "checkpoint": digest({key: part for key, part in found.state.items() if key != "seconds"}, found.replay),
        "policies": [digest(checkpoints.load_policy(file)) for file in (run / "policy.pt", best) if file],
        "metrics": [timeless(row) for row in read_metrics(run / "metrics.jsonl")],
        "result": timeless(json.loads((run / "result.json").read_text())),
        "evaluations": {file.name: timeless(json.loads(file.read_text())) for file in run.glob("evaluations/*")},
    }


def timeless(record: Fact) -> Fact:
    names = ("time", "seconds", "training_seconds")
    return {key: value for key, value in record.items() if key not in names and not key.startswith("throughput/")}


def digest(*values: Any) -> str:
    """Of all tensors and numbers of nested states, with their names, types and shapes."""
    hashed = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
            hashed.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict | list | tuple):
            hashed.update(f"{type(value).__name__}{len(value)}".encode())
            for item in value.items() if isinstance(value, dict) else value:
                add(item)
        else:
            hashed.update(repr(value).encode() + b"\0")

    add(values)
    return hashed.hexdigest()
