"""Commands of mtrl in processes of their own, started here or by a worker of Ray.

Ray's workers import this module, so it loads neither PyTorch nor the configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl.core.cores import free_cores

STOPPED = 143
"""Exit code of a process that ends by SIGTERM, as a shell reports it."""
_LONGEST_SAVE = 300.0
"""Seconds that a run whose worker has died is given to save its last step."""
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
"""Stays on the cores given and gets SIGTERM when its parent dies (prctl PR_SET_PDEATHSIG), then becomes the command.
Ray ends the children of a worker that ends, but not those of one that is killed."""


def start(
    arguments: Sequence[str], log: Path | None = None, *, threads: int = 0, prefix: Sequence[str] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Start a command of mtrl in a process and a process group of its own.

    Args:
        log: gets, at its end, what the command prints.
        threads: how many the command uses; 0 leaves the choice to it.
        prefix: what Python runs in place of the command, which follows as its arguments.
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


def run_in_worker(arguments: Sequence[str], run: Path, folder: Path, threads: int, env: dict[str, str]) -> int | str:
    """Run a command that trains one run, in a worker of Ray, and return its exit code, or what is wrong.

    The command has `threads` cores of its own if as many are free, and ends with its worker, or when Ray cancels this:
    then it saves the step that it is in.

    Args:
        run: the folder of the run, a path that starts at the root.
        folder: where the command is to run, the same on all machines.
        env: variables of the command.
    """
    if not folder.is_dir():
        return f"Folder {folder} should be there on every machine of the cluster (a shared file system). Found none."
    _wait_until_free(run)
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with free_cores(threads) as free:
        cores = ",".join(map(str, free))
        with log.open("a") as file:
            print(f"== mtrl {shlex.join(arguments)} (cores: {cores or 'any'}, on {os.uname().nodename})", file=file)
        prefix = ["-c", _TIED, str(os.getpid()), cores]
        process = start(arguments, log, threads=threads, prefix=prefix, cwd=folder, env=env)
        try:
            while process.poll() is None:  # Ray's KeyboardInterrupt comes between two steps of Python
                time.sleep(0.1)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            return STOPPED
    return process.returncode


def _wait_until_free(run: Path) -> None:
    """Wait until no process holds the run's folder."""
    until = time.monotonic() + _LONGEST_SAVE
    while time.monotonic() < until and not _free(run / ".lock"):
        time.sleep(0.2)


def _free(lock: Path) -> bool:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a new run, or a file system on which the run itself says what is wrong
        return True
    return True
