"""`make test-faults` goes on where it was, and tells states apart; `make soak` finds what grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.__main__ import pieces, summary
from tests.faults.cases import TRAINERS
from tests.faults.commands import digest
from tests.faults.parts import DISKS, KILLS_PER_RUN, PAIRS
from tests.faults.soak import draw, sample, tree
from tests.faults.soak import summary as soaked


def done(part: str, limit: int, lines: list[dict[str, Any]]) -> list[str]:
    """The pieces that a command does before it is ended, each kill's run with 7 kills."""
    names = []
    for trainer, name, _ in pieces(part, ["ppo"], lines, 1.0):
        if len(names) == limit:
            break
        names.append(name)
        lines.append({"part": part, "trainer": trainer, "piece": name, "holds": True, "kills": 7})
    return names


@pytest.mark.parametrize(("part", "count"), [("kills", -(-50 // 7)), ("flips", 1), ("disk", DISKS), ("writers", PAIRS)])
def test_the_same_command_goes_on_where_it_was(part: str, count: int) -> None:
    whole, lines = done(part, 1000, []), []
    parts = [name for _ in range(count + 1) for name in done(part, 1, lines)]
    assert parts == whole and len(set(whole)) == count
    assert KILLS_PER_RUN * len(whole) >= TRAINERS["ppo"][0] or part != "kills"
    (row,) = summary(lines)["rows"]
    assert row["pieces"] == row["held"] == count


def test_states_differ_by_one_number_its_type_its_shape_and_its_name() -> None:
    state = {"a": torch.arange(6.0), "b": [1, (True, None)]}
    others: list[Any] = [
        {**state, "a": torch.arange(6.0).nextafter(torch.tensor(9.0))},
        {**state, "a": torch.arange(6.0).double()},
        {**state, "a": torch.arange(6.0).reshape(2, 3)},
        {"c": state["a"], "b": state["b"]},
        {**state, "b": [1, [True, None]]},
        {**state, "b": [1, (1, None)]},
        {**state, "b": [1.0, (True, None)]},
    ]
    assert digest(state) == digest({"a": torch.arange(6.0), "b": [1, (True, None)]})
    assert len({digest(other) for other in [state, *others]}) == 1 + len(others)


def hours(process: int, level: float, growth: float = 0.0, threads: int = 4, kept: int = 0) -> list[dict[str, Any]]:
    """Three hours of one process, a sample a minute: memory doubles in its first minutes and then grows by `growth` MB
    an hour, beside what updates take and give back, and `kept` threads of an evaluation stay in each hour."""
    lines = []
    for minute in range(181):
        memory = level * min(1.0, 0.5 + minute / 20) + growth * minute / 60 + (0, 150, 70, 180, 90)[minute % 5]
        facts = {"process": process, "seconds": 60.0 * minute, "step": minute, "processes": 1}
        counts = {"threads": threads + kept * (minute // 60) + (minute % 7 == 0), "files": 5 + (minute % 5 == 0)}
        lines.append(facts | {"own_mb": memory, "resident_mb": memory + 100} | counts)
    return lines


@pytest.mark.parametrize(
    ("growth", "kept", "holds"), [(0.0, 0, True), (0.9, 0, True), (1.1, 0, False), (0.0, 1, False)]
)
def test_a_soak_finds_what_grows_also_where_processes_follow_each_other(
    growth: float, kept: int, holds: bool, tmp_path: Path
) -> None:
    lines = [*hours(1, 400, growth, kept=kept), *hours(2, 900, growth, kept=kept)]
    facts = soaked(lines)
    assert facts["own_mb_an_hour"] == pytest.approx(growth, abs=1e-3)
    assert facts["hours"] == 6 and facts["hours_judged"] == 5 and facts["processes"] == 2
    assert facts["threads_left_behind"] == 2 * kept and facts["files_left_behind"] == 0
    assert facts["holds"] is holds
    draw(lines, facts, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000


def test_a_soak_shorter_than_its_warmup_says_nothing() -> None:
    assert soaked(hours(1, 400)[:5])["holds"] is None


GROWING = """
import os, subprocess, sys, threading
print(flush=True)
sys.stdin.readline()
opened, stop = open(os.devnull), threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
ready = "import sys; m = b'1' * 50_000_000; print(flush=True); sys.stdin.read()"
with subprocess.Popen([sys.executable, "-c", ready], stdin=-1, stdout=-1) as child:
    child.stdout.readline()
    print(child.pid, flush=True)
    sys.stdin.readline()
    child.communicate()
stop.set()
"""


def test_a_sample_counts_memory_threads_and_files_of_a_process_and_its_child() -> None:
    """Of a process that does nothing else, as this one may: it grows when it reads a line."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", GROWING], **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        before = sample(process.pid)
        print(file=process.stdin, flush=True)
        child = int(process.stdout.readline())
        now, own, found = sample(process.pid), sample(child), [*tree(process.pid)]
        process.communicate("\n")
    assert found == [process.pid, child]
    assert now["processes"] == before["processes"] + 1 and own["own_mb"] > 50
    assert now["threads"] == before["threads"] + 2
    assert now["files"] == before["files"] + 3 + own["files"]
    assert now["own_mb"] > before["own_mb"] + 50
