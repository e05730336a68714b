"""What is done to runs, and to what they leave; each function gives the facts of one piece."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mtrl import cli
from mtrl.monitoring import checkpoints
from tests.faults.cases import Case
from tests.faults.commands import Command, Fact, digest, run_in

MOMENTS = {"start": 1, "training": 4, "saving": 4, "signal": 2}
"""When a run is killed -> how often: while it starts, at any moment after that, while it saves, and while it saves
because of a SIGTERM."""
SAVED = 130
"""Exit code of a command that saved because of a SIGTERM, and ended before it could be killed."""
KILLS_PER_RUN, FLIPS, DISKS, PAIRS = 10, 1000, 8, 5


def kills(case: Case, number: int, wanted: int) -> Fact:
    """One run, killed `wanted` times unless it ends before, and then left to end."""
    draw, folder = random.Random(f"{case.name} {number}"), case.fresh("killed")
    delivered, saving, torn = Counter[str](), 0, 0
    while True:
        command = Command(case.words, folder)
        moment = draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        if delivered.total() == wanted:
            break
        if _comes_to(moment, command, folder, case, draw):
            command.kill()
        evaluating = command.code == -signal.SIGTERM and "Evaluating" in command.text()
        if moment == "signal" and (command.code == SAVED or evaluating):
            continue
        if command.code != -signal.SIGKILL:
            break
        delivered[moment] += 1
        saving += any(any(folder.glob(f"runs/*/x/seed_1/{name}*")) for name in ("checkpoints/.", ".saving-"))
        rows = [file.read_bytes()[-1:] for file in folder.glob("runs/*/x/seed_1/metrics.jsonl")]
        torn += any(end not in (b"", b"\n") for end in rows)
    command.finish()
    fact: Fact = {"kills": delivered.total(), "moments": dict(delivered), "half_saved": saving, "half_a_row": torn}
    return fact | _end(case, folder, command)


def _comes_to(moment: str, command: Command, folder: Path, case: Case, draw: random.Random) -> bool:
    """Wait for the moment; False where the run ends before."""
    if moment == "start":
        return command.wait(seconds=draw.uniform(0, case.seconds_to_start))
    if not command.wait(command.begun):
        return False
    if moment == "training":
        return command.wait(seconds=draw.uniform(0, case.seconds / 3))
    if not command.wait(seconds=draw.uniform(0.2 if moment == "signal" else 0, case.seconds / 6)):
        return False
    if moment == "signal":  # it is in the training loop by now, where a SIGTERM may not end it before it has saved
        os.kill(command.process, signal.SIGTERM)
    begins = command.wait(lambda: any(folder.glob("runs/*/x/seed_1/checkpoints/.saving-*")))
    return begins and command.wait(seconds=draw.uniform(0, 0.02))


def _end(case: Case, folder: Path, command: Command) -> Fact:
    """Whether a run ended well and as it should."""
    if command.code != 0:
        return {"holds": False, "exit_code": command.code, "says": command.text()[-2000:]}
    differ = case.differences(folder)
    return {"holds": not differ} | ({"differ": differ} if differ else {})


def torn(case: Case) -> Fact:
    """The newest checkpoint's files cut at both ends of each of their records, and of each record's header."""
    cuts = {}
    for path in sorted(_last(case).iterdir()):
        with zipfile.ZipFile(path) as archive:
            records, directory = archive.infolist(), archive.start_dir
        sizes = {0, directory, path.stat().st_size - 1}
        for record in records:
            data = record.header_offset + 30 + len(record.filename)
            sizes |= {record.header_offset, data, record.header_offset - 1, data + record.file_size // 2}
        cuts[path.name] = sorted(size for size in sizes if 0 <= size < path.stat().st_size)
    damages = [(file, lambda content, size=size: content[:size]) for file in cuts for size in cuts[file]]
    return _damaged(case, damages)


def flips(case: Case) -> Fact:
    """One bit of the newest checkpoint's files changed, at random places."""
    draw, files = random.Random(case.name), sorted(path.name for path in _last(case).iterdir())

    def flipped(content: bytes, place: float, bit: int) -> bytes:
        changed = bytearray(content)
        changed[int(place * len(content))] ^= 1 << bit
        return bytes(changed)

    damages = []
    for number in range(FLIPS):
        place, bit = draw.random(), draw.randrange(8)
        damages.append((files[number % len(files)], lambda content, place=place, bit=bit: flipped(content, place, bit)))
    return _damaged(case, damages)


def _damaged(case: Case, damages: Iterable[tuple[str, Callable[[bytes], bytes]]]) -> Fact:
    """Whether each damage is found, so that the checkpoint before is taken, or changes no number."""
    newest = _last(case)
    contents = {path.name: path.read_bytes() for path in newest.iterdir()}
    whole = checkpoints.newest(newest.parent)
    assert whole is not None
    wanted, tried, found, silent = digest(whole.state, whole.replay), 0, 0, []
    for file, damage in damages:
        damaged = damage(contents[file])
        (newest / file).write_bytes(damaged)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            taken = checkpoints.newest(newest.parent)
        assert taken is not None
        tried += 1
        found += taken.path != newest
        if taken.path == newest and digest(taken.state, taken.replay) != wanted:
            silent.append(f"{file} of {len(damaged)} bytes")
        del taken
        (newest / file).write_bytes(contents[file])
    return {"tried": tried, "found": found, "changed_nothing": tried - found - len(silent), "holds": not silent}


def _last(case: Case) -> Path:
    path = checkpoints.latest(run_in(case.work / "whole") / "checkpoints")
    assert path is not None
    return path


def disk(case: Case, number: int) -> Fact:
    """A disk that fills up somewhere in the run, and is then made larger."""
    whole = sum(file.stat().st_size for file in (case.work / "whole").rglob("*"))
    size = int(whole * (0.05 + 0.95 * number / DISKS))
    folder = case.fresh("small_disk")
    with _small_disk(folder, size) as (limit, enlarge):
        first = Command(case.words, folder, largest_file=limit).finish()
        last = [*first.text().splitlines(), ""][-2:][0]
        enlarge()
        fact: Fact = {"bytes": size, "kind": "file size" if limit else "tmpfs", "exit_code": first.code, "says": last}
        told = first.code == 0 or (first.code == cli.BAD_INPUT and last.startswith("mtrl: "))
        if not told or "Traceback" in first.text():
            return fact | {"holds": False, "says": first.text()[-2000:]}
        return fact | _end(case, folder, Command(case.words, folder).finish())


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[tuple[int | None, Callable[[], None]]]:
    """Mount a small tmpfs there. Where that is not allowed, limit the size of each file instead."""
    if folder.is_mount():  # of a command that was killed
        subprocess.run(["umount", folder], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode:
        yield max(size // 40, 4096), lambda: None
        return
    try:
        yield None, lambda: subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True) and None
    finally:
        subprocess.run(["umount", folder], check=True)


def writers(case: Case, number: int) -> Fact:
    """The same command twice, the second one some time after the first: one trains, the other is refused."""
    draw, folder = random.Random(f"{case.name} {number}"), case.fresh("shared")
    first = Command(case.words, folder, "first")
    first.wait(seconds=draw.uniform(0, case.seconds_to_start))
    pair = [first, Command(case.words, folder, "second")]
    codes = sorted(command.finish().code or 0 for command in pair)
    winner = next((command for command in pair if command.code == 0), first)
    refused = [command.text().splitlines() for command in pair if command is not winner]
    told = len(refused[0]) == 1 and "used by one process at a time" in refused[0][0]
    end = _end(case, folder, winner)
    return {"exit_codes": codes, **end, "holds": end["holds"] and told and codes == [0, cli.BAD_INPUT]}
