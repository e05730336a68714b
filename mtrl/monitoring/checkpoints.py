"""Checkpoints that are either complete or absent, whatever kills the process.

A checkpoint is a folder `step_<n>/` with `state.pt`, `replay.pt` and a file for each block of a large replay. It is
written under another name, synced to the disk and renamed; only then are older ones deleted. A block that is already in
the previous checkpoint is not written again, but gets a hard link. Files are ZIP archives with a checksum for each
record. PyTorch writes these checksums but does not read them, so this module checks all of them before anything is
used. Loading never runs code (`torch.load(weights_only=True)`), and saving refuses what could not be loaded that way.

Beside the checkpoints, `best_<n>.pt` is the policy after step n, which was better than all before it in an evaluation
during training.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl.core.errors import UserError, expected, reading
from mtrl.monitoring.files import sync_folder

_STEP, _BEST, _BLOCK = re.compile(r"step_(\d+)"), re.compile(r"best_(\d+)\.pt"), re.compile(r"\w+")
STATE, REPLAY, BLOCKS = "state.pt", "replay.pt", "blocks"
_SAVING, _REPLACED, _DAMAGED = ".saving-", ".replaced-", "damaged-"
_LOADABLE = (type(None), bool, int, float, str, bytes, complex, torch.dtype, torch.device, torch.Size)


def save(folder: Path, step: int, state: Mapping[str, Any], replay: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint `folder/step_<step>/` and return its path.

    Args:
        folder: the run's `checkpoints/`.
        state: tensors, numbers, strings, and dicts, lists and tuples of them.
        replay: the same, usually large. Under `blocks` it may have tensors by name, each of which gets its own file.
            If the previous checkpoint has a block of the same name, the two must be equal: it is not written again.
        keep: how many checkpoints remain, at least 1.

    Raises:
        TypeError: `state` or `replay` holds something that could not be loaded again; nothing is written.
        UserError: the folder cannot be written; earlier checkpoints are not changed.
    """
    blocks: Mapping[str, Tensor] = replay.get(BLOCKS, {})
    parts = {STATE: state, REPLAY: dict(replay) | ({BLOCKS: list(blocks)} if blocks else {})}
    for name, part in parts.items():
        _require_loadable(part, name)
    final, aside, before = folder / f"step_{step}", folder / f"{_SAVING}step_{step}", latest(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name, part in parts.items():
            _write(aside / name, part)
        for name, block in blocks.items():
            if before is None or not _linked(before / _block_file(name), aside / _block_file(name)):
                # The clone leaves out the rest of the storage that the block is a view of.
                _write(aside / _block_file(name), {"block": block.detach().cpu().clone()})
        sync_folder(aside)
        _rename(aside, final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        # PyTorch's writer also fails when it closes the file after a failed write; the first error says more.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"Checkpoint {final} should be writable. Found {_first_line(cause)}.") from error
    _prune(folder, keep)
    return final


class Found(NamedTuple):
    """A complete checkpoint."""

    path: Path
    state: dict[str, Any]
    replay: dict[str, Any]
    """Tensors on the CPU that are memory-mapped, so that copying them into the replay buffer needs no second copy in
    memory. The file itself is never written. {} if not requested."""
    damaged: list[Path]
    """Newer checkpoints, all of them damaged."""


def latest(folder: Path) -> Path | None:
    """The checkpoint of the largest step, even if it is damaged; None if there is none."""
    found = _listed(folder)
    return found[-1] if found else None


def newest(folder: Path, with_replay: bool = True) -> Found | None:
    """The newest complete checkpoint; None if there are no checkpoints. Prints a line for each damaged one it skips.

    with_replay: whether to read and check the replay, too. Otherwise only `state.pt` is.

    Raises:
        UserError: all checkpoints are damaged, or the folder cannot be read.
    """
    damaged: list[Path] = []
    for path in reversed(found := _listed(folder)):
        try:
            return Found(path, load(path), load_replay(path) if with_replay else {}, damaged)
        except UserError as error:
            if path == found[0]:
                hint = "No earlier checkpoint is whole: put one back, or start another run."
                raise UserError(f"{error} {hint}") from error
            damaged.append(path)
            print(f"mtrl: {error} The previous checkpoint is taken.", file=sys.stderr)
    return None


def set_aside(found: Found) -> None:
    """Rename the damaged checkpoints. Their larger steps would make them count as newer than the next checkpoints."""
    for path in found.damaged:
        aside = path.with_name(f"{_DAMAGED}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return _number(_STEP, checkpoint)


def load(checkpoint: Path) -> dict[str, Any]:
    """The state saved in a checkpoint folder. Raises UserError if the file is missing or damaged."""
    return _read(checkpoint / STATE, mmap=False)


def load_replay(checkpoint: Path) -> dict[str, Any]:
    """The replay saved in a checkpoint folder (see `Found`). Raises UserError if a file is missing or damaged."""
    replay = _read(checkpoint / REPLAY, mmap=True)
    if BLOCKS in replay:
        names = replay[BLOCKS]
        if not isinstance(names, list) or not all(isinstance(name, str) and _BLOCK.fullmatch(name) for name in names):
            raise expected(f"Checkpoint file {checkpoint / REPLAY}", "one that names its blocks", names)
        replay[BLOCKS] = {name: _read(checkpoint / _block_file(name), mmap=True).get("block") for name in names}
        if not all(isinstance(block, Tensor) for block in replay[BLOCKS].values()):
            raise expected(f"Blocks of checkpoint {checkpoint}", "tensors", "others")
    return replay


def save_policy(path: Path, step: int, policy: Mapping[str, Any]) -> None:
    """Write the state that the policy needs to act, and its step, to one file, which is either complete or absent.

    Raises:
        TypeError: `policy` holds something that could not be loaded again.
        UserError: the file cannot be written.
    """
    state, aside = {"step": step, "agent": policy}, path.with_name(f"{_SAVING}{path.name}")
    _require_loadable(state, path.name)
    try:
        _write(aside, state)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Policy {path} should be writable. Found {_first_line(error)}.") from error
    sync_folder(path.parent)


def load_policy(path: Path) -> dict[str, Any]:
    """{"step": n, "agent": state} from a file of `save_policy`. Raises UserError if it is missing or damaged."""
    return _read(path, mmap=False)


def save_best(folder: Path, step: int, policy: Mapping[str, Any]) -> None:
    """Write the policy after `step` steps, which is the best so far. The one that it surpasses stays while a checkpoint
    exists that is older than this policy, since training may go back to that checkpoint."""
    save_policy(folder / f"best_{step}.pt", step, policy)


def best(folder: Path) -> Path | None:
    """The file of the best policy; None if there was no evaluation during training."""
    found = _bests(folder)
    return found[-1] if found else None


def go_back(folder: Path, step: int) -> None:
    """Delete the best policies after `step`, since training continues from there."""
    for path in _bests(folder):
        if _number(_BEST, path) > step:
            path.unlink()


def clean(folder: Path) -> None:
    """Remove what a crash left half written, and restore what it left half replaced. No other process may be saving
    here."""
    for path in folder.glob(f"{_REPLACED}step_*"):
        final = folder / path.name.removeprefix(_REPLACED)
        if final.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, final)
    for path in folder.glob(f"{_SAVING}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _listed(folder: Path) -> list[Path]:
    """The checkpoints' folders, by step."""
    return _named(folder, _STEP)


def _bests(folder: Path) -> list[Path]:
    """The files of best policies, by step."""
    return _named(folder, _BEST)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The entries whose names match, sorted by number. An unreadable folder is an error, not an empty list."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise expected(f"Folder {folder}", "a folder that can be read", error.strerror) from error
    return sorted((folder / name for name in names if pattern.fullmatch(name)), key=lambda path: _number(pattern, path))


def _number(pattern: re.Pattern[str], path: Path) -> int:
    match = pattern.fullmatch(path.name)
    if match is None:
        raise expected(f"Checkpoint {path}", f"named as {pattern.pattern}", path.name)
    return int(match[1])


def _block_file(name: str) -> str:
    return f"block_{name}.pt"


def _linked(old: Path, new: Path) -> bool:
    """Make a hard link. Returns False if the file does not exist, or the file system has no hard links."""
    try:
        os.link(old, new)
    except OSError:
        return False
    return True


def _write(path: Path, part: Mapping[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.save(part, file)
        file.flush()
        os.fsync(file.fileno())


def _rename(aside: Path, final: Path) -> None:
    """Put the new checkpoint in place. One of the same step is moved first, and restored by `clean` after a crash."""
    replaced = final.with_name(f"{_REPLACED}{final.name}")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    try:
        os.replace(aside, final)
    except OSError:
        if replaced.exists():
            os.replace(replaced, final)
        raise
    sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _prune(folder: Path, keep: int) -> None:
    """Keep the newest `keep` checkpoints. Delete best policies surpassed by the step of the oldest one kept."""
    listed = _listed(folder)
    for path in listed[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    oldest = step_of(listed[-keep:][0])
    known = [path for path in _bests(folder) if _number(_BEST, path) <= oldest]
    for path in known[:-1]:
        path.unlink(missing_ok=True)


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    with reading(path, "whole and readable", "Checkpoint file"):
        _verify(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(found, dict):
            raise TypeError(f"a {type(found).__name__}, not a dictionary")
        return found


def _verify(path: Path) -> None:
    """Compare every record with its checksum. Compressed records are refused, so that none is larger than the file."""
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("a compressed record")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"a checksum that differs from the saved one, in {damaged}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _require_loadable(value: Any, where: str) -> None:
    """Refuse to save what `weights_only` would later refuse to load."""
    if isinstance(value, Tensor) or type(value) in _LOADABLE:
        return
    if type(value) in (dict, OrderedDict):
        items = value.items()
    elif type(value) in (list, tuple):
        items = enumerate(value)
    else:
        raise TypeError(f"{where} should be a tensor, number, string, dict, list or tuple. Found {type(value)}.")
    for key, item in items:
        _require_loadable(item, f"{where}[{key!r}]")
