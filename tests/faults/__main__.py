"""Kill training runs, fill their disk and damage their files: python -m tests.faults [part] ...

A run that was disturbed must end like one that was not: the same tensors in its last checkpoint and its policies, the
same rows of metrics, each once, and the same evaluations. The parts are `kills` (SIGKILL at random moments; the same
command again), `torn` and `flips` (checkpoints cut at every boundary of their records, or with one bit changed), `disk`
(a disk that is full) and `writers` (the same command twice at once). Every finished piece is a line in faults.jsonl, so
that the same command goes on where it was; what did not hold is tried again. Exit code 1 where something did not hold.

Commands run as from a shell, but in processes forked from this one, so that modules are imported only once.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.cases import TRAINERS, Case
from tests.faults.commands import Fact
from tests.faults.parts import DISKS, KILLS_PER_RUN, PAIRS, disk, flips, kills, torn, writers

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("kills", "torn", "flips", "disk", "writers")


def pieces(part: str, trainers: list[str], lines: list[Fact], share: float) -> Iterator[tuple[str, str, Any]]:
    """(trainer, name, what to do) of the pieces that are not done yet; `lines` grows meanwhile."""
    done = lambda name: any((line["part"], line["piece"]) == (part, name) for line in lines)  # noqa: E731
    if part == "kills":
        for trainer in trainers:
            wanted = max(1, round(share * TRAINERS[trainer][0]))
            for number in range(10_000):
                mine = [line for line in lines if (line["part"], line["trainer"]) == (part, trainer)]
                left = wanted - sum(line["kills"] for line in mine)
                if left <= 0:
                    break
                if not done(name := f"{trainer} {number}"):
                    yield trainer, name, lambda case, n=number, k=left: kills(case, n, min(k, KILLS_PER_RUN))
    elif part in ("torn", "flips"):
        if not done("sac"):
            yield "sac", "sac", torn if part == "torn" else flips
    else:
        # A run with a replay is refused before it fills a disk.
        trainer, do, count = ("ppo", disk, DISKS) if part == "disk" else ("sac", writers, PAIRS)
        for number in range(count):
            if not done(name := f"{trainer} {number}"):
                yield trainer, name, lambda case, n=number: do(case, n)


def summary(lines: list[Fact]) -> Fact:
    """Sums over the pieces of each part and trainer."""
    rows: dict[tuple[str, str], Fact] = {}
    for line in lines:
        row = rows.setdefault((line["part"], line["trainer"]), {"pieces": 0, "held": 0})
        row["pieces"] += 1
        row["held"] += line["holds"]
        for name in ("kills", "half_saved", "half_a_row", "tried", "found", "changed_nothing"):
            if name in line:
                row[name] = row.get(name, 0) + line[name]
        if "moments" in line:
            row["moments"] = dict(Counter(row.get("moments", {})) + Counter(line["moments"]))
    return {"rows": [{"part": part, "trainer": trainer, **row} for (part, trainer), row in rows.items()]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none")
    parser.add_argument("--trainers", default=",".join(TRAINERS), help="whose runs are killed")
    parser.add_argument("--share", type=float, default=1.0, help="of the kills (50 of SAC and PPO, 20 of others)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "faults", help="folder of the two files")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "faults", help="folder of the runs")
    options = parser.parse_args()
    trainers = options.trainers.split(",")
    if not {*options.parts} <= {*PARTS} or not {*trainers} <= {*TRAINERS}:
        parser.error(f"Parts should be among {', '.join(PARTS)}, and trainers among {', '.join(TRAINERS)}.")
    options.output.mkdir(parents=True, exist_ok=True)
    file, cases = options.output / "faults.jsonl", dict[str, Case]()
    old = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines = [line for line in old if line["holds"]]
    for part in options.parts or PARTS:
        for trainer, name, do in pieces(part, trainers, lines, options.share):
            case = cases.get(trainer) or cases.setdefault(trainer, Case(trainer, options.work.resolve()))
            begin = time.monotonic()
            fact = {"part": part, "trainer": trainer, "piece": name, **do(case)}
            lines.append(fact | {"seconds": round(time.monotonic() - begin, 1)})
            print(json.dumps(lines[-1]), flush=True)
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
            (options.output / "summary.json").write_text(json.dumps(summary(lines), indent=1) + "\n")
    return 0 if all(line["holds"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
