"""mtrl bench startup: how long commands take as separate processes, from start to exit."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from statistics import median
from typing import Any

from mtrl.bench.report import interleaved, machine

BAD_INPUT = 2
COMMANDS = {
    "help": ["--help"],
    "list": ["list"],
    "unknown option": ["train", "benchmark=toy", "agent.nonsense=1"],
    "unknown kind": ["train", "benchmark=toi"],
    "configuration": ["train", "benchmark=toy", "--show"],
    "MT10, one step": ["train", "benchmark=mt10", "steps=1", "training.final_episodes=0"],
    "MT50, one step": ["train", "benchmark=mt50", "steps=1", "training.final_episodes=0"],
}
"""Only the last three import PyTorch. The last two create all environments, step each once, and save the run with its
plots."""
_ONE_STEP = ", one step"
_FIRST_STEP = """
import os, sys
from mtrl.cli import main
from mtrl.envs.metaworld.engine import BatchedEnvs

step = BatchedEnvs.step

def first(*arguments):
    step(*arguments)
    os._exit(0)

BatchedEnvs.step = first
sys.exit(main(sys.argv[1:]))
"""
"""A program that runs a command, but exits after the environments' first step."""


def measure(quick: bool = False) -> dict[str, Any]:
    """The median and least seconds of each command until it exits, or until the environments' first step.

    For comparison, `python` is an empty program, and `torch` only imports PyTorch. All programs take turns.

    Raises:
        RuntimeError: a command exits with another code than 0, or than 2 if its input is bad on purpose.
    """
    programs = {name: ["-m", "mtrl.cli", *words] for name, words in COMMANDS.items()}
    for name, words in COMMANDS.items():
        if name.endswith(_ONE_STEP):
            programs[name.replace(_ONE_STEP, ", until the first step")] = ["-c", _FIRST_STEP, *words]
    programs = {"python": ["-c", ""], "torch": ["-c", "import torch"], **programs}
    codes = {name: BAD_INPUT if name.startswith("unknown") else 0 for name in programs}
    calls = {name: lambda words=words, code=codes[name]: _run(words, code) for name, words in programs.items()}
    seconds = interleaved(calls, 1 if quick else 9, warmup=1)
    rows = [{"command": name, "seconds": median(times), "least": min(times)} for name, times in seconds.items()]
    return {"bench": "startup", "machine": machine(), "rows": rows}


def _run(words: list[str], code: int) -> None:
    with tempfile.TemporaryDirectory() as folder:  # for the runs
        command = [sys.executable, *words]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}: {done.stderr}")
