"""Runs commands of mtrl in processes of their own, started here or by a Ray worker.

Ray workers import this module, so it loads neither PyTorch nor the configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtrl.core.cores import free_cores

STOPPED = 143
"""The exit code that a shell reports for a process ended by SIGTERM."""
_LONGEST_SAVE = 300.0
"""Seconds that a new worker waits, at most, for the process of a dead one to save the same run and free its folder."""
_TIED = """
import ctypes, os, signal, sys
parent, cores, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
signal.pthread_sigmask(signal.SIG_SETMASK, ())
if os.getppid() != int(parent):
    sys.exit("The process that started this one has died.")
os.execv(sys.executable, [sys.executable, *command])
"""
"""A program that binds its process to the given cores, lets it receive SIGTERM when its parent dies (prctl
PR_SET_PDEATHSIG), and replaces itself with the command. Without it, the child of a killed Ray worker would go on."""


def start(
    arguments: Sequence[str], log: Path | None = None, *, threads: int = 0, prefix: Sequence[str] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Start a command of mtrl in a process and a process group of its own.

    Args:
        log: the file to which the command's output is appended.
        threads: how many threads the command uses; 0 leaves the choice to the command.
        prefix: a Python program, as arguments of Python, that gets the command as its arguments and runs it.
        options: further arguments of `subprocess.Popen`.
    """
    limits = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    words = [*arguments, *([f"threads={threads}"] if threads else [])]
    with contextlib.ExitStack() as stack:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            options |= {"stdout": stack.enter_context(log.open("a")), "stderr": subprocess.STDOUT}
        options["env"] = {**os.environ, **limits, **options.get("env", {})}
        return subprocess.Popen([sys.executable, *prefix, "-m", "mtrl.cli", *words], process_group=0, **options)


def tied(cores: Sequence[int]) -> list[str]:
    """The `prefix` that ends a command when the thread that started it ends, and binds it to these cores, if any."""
    return ["-c", _TIED, str(os.getpid()), ",".join(map(str, cores))]


def run_in_worker(arguments: Sequence[str], run: Path, folder: Path, threads: int, env: dict[str, str]) -> int | str:
    """Run a command that trains one run, in a Ray worker. Returns its exit code, or a message that says what is wrong.

    The command gets `threads` cores of its own if that many are free. It ends when its worker dies or when Ray cancels
    this task. In both cases it first finishes its current step and saves.

    Args:
        arguments: the command, without `mtrl`.
        run: the run's folder, as an absolute path.
        folder: the working folder of the command, the same on all machines.
        threads: the number of threads, and of cores.
        env: environment variables of the command.
    """
    if not folder.is_dir():
        return f"Folder {folder} should be there on every machine of the cluster (a shared file system). Found none."
    _wait_until_free(run)
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with free_cores(threads) as free:
        with log.open("a") as file:
            cores = ",".join(map(str, free)) or "any"
            print(f"== mtrl {shlex.join(arguments)} (cores: {cores}, on {os.uname().nodename})", file=file)
        with _cancellations() as noted:
            process = start(arguments, log, threads=threads, prefix=tied(free), cwd=folder, env=env)
            while process.poll() is None:
                if noted:
                    process.terminate()
                    process.wait()
                    return STOPPED
                time.sleep(0.1)
    return process.returncode


@contextlib.contextmanager
def _cancellations() -> Iterator[list[int]]:
    """Record Ray's cancellations of the task, which arrive as SIGINT, in the list that is yielded.

    A KeyboardInterrupt raised while a process is being started would leave that process running without an owner.
    """
    noted = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_until_free(run: Path) -> None:
    """Wait until no process holds the lock of the run's folder, but at most `_LONGEST_SAVE` seconds."""
    until = time.monotonic() + _LONGEST_SAVE
    while time.monotonic() < until and not _free(run / ".lock"):
        time.sleep(0.2)


def _free(lock: Path) -> bool:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the run is new, or it will report what is wrong with the file system
        return True
    return True
