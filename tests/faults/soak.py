"""Train for hours and see whether memory, threads and files stay flat: python -m tests.faults.soak [--hours 3]

The load is `make train` without an end, with an evaluation and a checkpoint every minute or so, and TensorBoard.
Memory, threads and open files of the process and its children are a line in soak.jsonl every half minute. The same
command goes on with the same run, in a new process, until the hours are full; soak.json and soak.png tell what came
out. Linux only. Exit code 1 where something grew.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.bench.report import machine
from mtrl.monitoring import drawing

ROOT = Path(__file__).resolve().parents[2]
Sample = dict[str, Any]
LOAD = ["recipe=quick", "experiment=soak", "device=cpu", "threads=1", "steps=1000000000", "training.log_every=4000",
        "training.evaluate_every=8000", "training.evaluation_episodes=2", "training.checkpoint_every=8000"]  # fmt: skip
WARMUP = 1800.0
"""Seconds of each process that are not judged. Until then, the starts of the 500 goals are met for the first time and
kept, and the physics still reserves memory for more contacts at once than before."""
WINDOW = 600.0
"""Seconds of a window, in which the least memory counts."""
MOST = 1.0
"""Megabytes an hour."""
MEMORY = {"own_mb": "own memory (MB)", "resident_mb": "resident memory (MB)"}
COUNTS = {"threads": "threads", "files": "open files"}


def tree(process: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield process
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from tree(int(child))


def sample(process: int) -> Sample:
    """Memory in megabytes, threads and open files of a process and its children, added up.

    `own_mb` is what the processes have allocated. `resident_mb` has the pages of libraries and other files, too, which
    come and go as the system likes.
    """
    found = np.zeros(5)
    for each in tree(process):
        with contextlib.suppress(OSError):  # a child that has just ended
            folder = Path(f"/proc/{each}")
            memory = dict(re.findall(r"^(\w+): +(\d+) kB", (folder / "smaps_rollup").read_text(), re.M))
            counts = [len(os.listdir(folder / part)) for part in ("task", "fd")]
            found += [1, int(memory["Anonymous"]) / 1e3, int(memory["Rss"]) / 1e3, *counts]
    processes, own, resident, threads, files = found.round(3).tolist()
    facts = {"processes": int(processes), "own_mb": own, "resident_mb": resident}
    return facts | {"threads": int(threads), "files": int(files)}


def judged(samples: Sequence[Sample], warmup: float = WARMUP) -> list[list[Sample]]:
    """The samples after the warm-up of each process, those of two windows or more."""
    numbers = sorted({line["process"] for line in samples})
    parts = [[line for line in samples if line["process"] == n and line["seconds"] >= warmup] for n in numbers]
    return [part for part in parts if len(windows(part)) > 1]


def windows(part: Sequence[Sample]) -> list[Sequence[Sample]]:
    """The samples of each whole WINDOW of a process."""
    first = part[0]["seconds"] if part else 0.0
    count = int((part[-1]["seconds"] - first) // WINDOW) if part else 0
    edges = [(first + WINDOW * n, first + WINDOW * (n + 1)) for n in range(count)]
    return [[line for line in part if low <= line["seconds"] < high] for low, high in edges]


def slope(parts: Sequence[Sequence[Sample]], name: str, of: Callable[..., float] = min) -> float:
    """The growth per hour of the least number in each window: one slope for all processes, each with its own level.

    Memory goes up and down by a hundred megabytes with every update. What is never given back raises the least number.
    """
    numerator = denominator = 0.0
    for part in map(windows, parts):
        hours = WINDOW / 3600 * np.arange(len(part))
        hours -= hours.mean()
        numerator += hours @ np.array([of(line[name] for line in window) for window in part])
        denominator += hours @ hours
    return float(numerator / denominator)


def left_behind(part: Sequence[Sample], name: str) -> int:
    """By how much the least number in the last quarter exceeds that in the first: what is never given back."""
    quarter = max(1, len(part) // 4)
    return min(line[name] for line in part[-quarter:]) - min(line[name] for line in part[:quarter])


def summary(samples: Sequence[Sample], warmup: float = WARMUP) -> dict[str, Any]:
    """What came out; `holds` is None where no process was watched for two windows after its warm-up."""
    parts = judged(samples, warmup)
    ends = {line["process"]: line["seconds"] for line in samples}
    facts: dict[str, Any] = {"load": " ".join(["mtrl train", *LOAD]), "hours": round(sum(ends.values()) / 3600, 3)}
    facts |= {"processes": len(ends), "steps_per_task": max((line["step"] for line in samples), default=0)}
    facts |= {"warmup_seconds": warmup, "hours_judged": round(sum(p[-1]["seconds"] - warmup for p in parts) / 3600, 3)}
    if not parts:
        return facts | {"holds": None}
    facts |= {f"{name}_an_hour": round(slope(parts, name), 3) for name in MEMORY}
    facts["peak_mb_an_hour"] = round(slope(parts, "own_mb", max), 3)
    facts |= {f"{name}_left_behind": max(left_behind(part, name) for part in parts) for name in COUNTS}
    flat = facts["own_mb_an_hour"] < MOST and facts["resident_mb_an_hour"] < MOST
    return facts | {"holds": flat and all(facts[f"{name}_left_behind"] <= 0 for name in COUNTS)}


def draw(samples: Sequence[Sample], facts: dict[str, Any], path: Path) -> None:
    """Memory, and threads and files, over the hours; processes follow each other, with the warm-up in grey."""
    figure = drawing.new_figure(8, 5, f"{facts['hours']:.1f} hours of mtrl train recipe=quick")
    axes, begin = figure.subplots(2, 1, sharex=True), 0.0
    for number in sorted({line["process"] for line in samples}):
        part = [line for line in samples if line["process"] == number]
        hours = [begin + line["seconds"] / 3600 for line in part]
        for place, (name, label) in enumerate([*MEMORY.items(), *COUNTS.items()]):
            which, colour = axes[place // 2], drawing.COLOURS[place]
            which.plot(hours, [line[name] for line in part], color=colour, lw=0.8, label=None if begin else label)
        for which in axes:
            which.axvspan(begin, min(hours[-1], begin + facts["warmup_seconds"] / 3600), color="#eeeeee", zorder=0)
        begin = hours[-1]
    for which in axes:
        which.set_ylim(bottom=0)
        which.grid(color=drawing.GRID)
        which.legend(loc="lower right")
    if facts["holds"] is not None:
        axes[0].set_title(
            f"least own memory of each ten minutes: {facts['own_mb_an_hour']:+.2f} MB an hour", fontsize=10
        )
    axes[1].set_xlabel("hours")
    drawing.save(figure, path)


def step(work: Path) -> int:
    """Of the run's last row."""
    for file in work.glob("**/metrics.jsonl"):
        with contextlib.suppress(ValueError, IndexError):  # a line half written
            return json.loads(file.read_bytes().splitlines()[-1])["step"]
    return 0


def start(work: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """The load, which saves and ends when this process does."""
    work.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "mtrl.cli", "train", *LOAD, f"runs={work}", *options]
    with open(work / "output.txt", "ab") as output:
        interrupt = lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # noqa: E731
        return subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=output, preexec_fn=interrupt)


def watch(work: Path, file: Path, seconds: float, every: float, options: Sequence[str]) -> int:
    """Sample the load for so many seconds, line by line into the file. Returns its exit code if it ended by itself."""
    number, begin = max((line["process"] for line in read(file)), default=0) + 1, time.monotonic()
    load = start(work, options)
    try:
        while (passed := time.monotonic() - begin) < seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return load.wait(min(every, seconds - passed))
            now = {"process": number, "seconds": round(time.monotonic() - begin, 1), "step": step(work)}
            with open(file, "a") as lines:
                lines.write(json.dumps(now | sample(load.pid)) + "\n")
    finally:
        load.send_signal(signal.SIGTERM)  # a shell in the background may ignore SIGINT
        load.wait()
    return 0


def read(file: Path) -> list[Sample]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="more options of mtrl train")
    parser.add_argument("--hours", type=float, default=3.0, help="of all processes together")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two samples")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "faults", help="folder of the three files")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "soak", help="folder of the run")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    file, work = options.output / "soak.jsonl", options.work.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    left = 3600 * options.hours - sum({line["process"]: line["seconds"] for line in read(file)}.values())
    if left > 0 and (code := watch(work, file, left, options.every, options.options)) != 0:
        raise SystemExit(f"soak: the load ended with exit code {code}; {work / 'output.txt'} says why.")
    facts = summary(samples := read(file)) | {"machine": machine()}
    (options.output / "soak.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(samples, facts, options.output / "soak.png")
    print(json.dumps(facts, indent=1))
    return 1 if facts["holds"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
