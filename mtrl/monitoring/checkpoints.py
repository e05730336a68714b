"""Checkpoints that are either whole or absent, whatever kills the process.

A checkpoint is a folder `step_<n>/` with `state.pt` and, in the newest only, `replay.pt`. It is written under
another name, synced to the disk and renamed; older ones go only after that. Loading never runs code
(`torch.load(weights_only=True)`), and saving refuses what could not be loaded that way.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl.core.errors import UserError, expected
from mtrl.monitoring.files import sync_folder

_STEP = re.compile(r"step_(\d+)")
_SAVING, _REPLACED = ".saving-", ".replaced-"
_LOADABLE = (type(None), bool, int, float, str, bytes, complex, torch.dtype, torch.device, torch.Size)


def save(
    folder: Path, step: int, state: Mapping[str, Any], replay: Mapping[str, Any] | None = None, keep: int = 2
) -> Path:
    """Write the checkpoint `folder/step_<step>/` and return its path.

    Args:
        folder: the run's `checkpoints/`.
        state: tensors, numbers, strings and dicts, lists and tuples of them.
        replay: the same, usually large; None leaves the newest one there is where it is.
        keep: how many states stay; beyond them stays the newest one with a replay.

    Raises:
        TypeError: `state` or `replay` holds what could not be loaded again; nothing is written.
        UserError: the folder cannot be written; earlier checkpoints are as they were.
    """
    parts = {"state.pt": state} if replay is None else {"state.pt": state, "replay.pt": replay}
    for name, part in parts.items():
        _require_loadable(part, name)
    final, aside = folder / f"step_{step}", folder / f"{_SAVING}step_{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name, part in parts.items():
            _write(aside / name, part)
        sync_folder(aside)
        _rename(aside, final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        # PyTorch's writer closes its file after a failed write, and that fails with less to say.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"Checkpoint {final} should be writable. Found {_first_line(cause)}.") from error
    _prune(folder, keep)
    return final


def latest(folder: Path, with_replay: bool = False) -> Path | None:
    """The whole checkpoint of the largest step, or None; only among those with a replay if so asked."""
    found = [path for path in _complete(folder) if not with_replay or (path / "replay.pt").exists()]
    return found[-1] if found else None


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    match = _STEP.fullmatch(checkpoint.name)
    if match is None:
        raise expected(f"Checkpoint {checkpoint}", "named step_<n>", checkpoint.name)
    return int(match[1])


def load(checkpoint: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The state saved in a checkpoint folder, on `map_location`.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(checkpoint / "state.pt", map_location, mmap=False)


def load_replay(checkpoint: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The replay saved in a checkpoint folder. On the CPU its tensors are mapped from the file and read on use,
    so that copying them into the buffer never holds them twice; the file itself is never written.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(checkpoint / "replay.pt", map_location, mmap=torch.device(map_location).type == "cpu")


def save_policy(path: Path, step: int, policy: Mapping[str, Any]) -> None:
    """Write what is needed to act, and the step that it is of, as one file: it is whole or absent."""
    state, aside = {"step": step, "agent": policy}, path.with_name(f"{_SAVING}{path.name}")
    _require_loadable(state, path.name)
    try:
        _write(aside, state)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Policy {path} should be writable. Found {_first_line(error)}.") from error
    sync_folder(path.parent)


def load_policy(path: Path) -> dict[str, Any]:
    """{step, agent} of a file that `save_policy` wrote. Raises UserError where it is missing or damaged."""
    return _read(path, "cpu", mmap=False)


def clean(folder: Path) -> None:
    """Remove what a crash left half written or half removed. Only while no other process saves here."""
    for path in folder.glob(f"{_REPLACED}step_*"):
        final = folder / path.name.removeprefix(_REPLACED)
        if final.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, final)
    whole = set(_complete(folder))
    for path in [*folder.glob(f"{_SAVING}step_*"), *folder.glob("step_*")]:
        if path not in whole:
            shutil.rmtree(path)


def _complete(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("step_*") if _STEP.fullmatch(path.name) and (path / "state.pt").is_file()]
    return sorted(paths, key=step_of)


def _write(path: Path, part: Mapping[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.save(part, file)
        file.flush()
        os.fsync(file.fileno())


def _rename(aside: Path, final: Path) -> None:
    """Put the new one in place. One of the same step is moved away first; after a crash `clean` brings it back."""
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
    newest_replay = latest(folder, with_replay=True)
    checkpoints = _complete(folder)
    for path in checkpoints:
        if path != newest_replay:
            (path / "replay.pt").unlink(missing_ok=True)
    for path in checkpoints[: -max(keep, 1)]:
        if path != newest_replay:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, map_location: str | torch.device, mmap: bool) -> dict[str, Any]:
    if not path.is_file():
        raise expected(f"Checkpoint file {path}", "an existing file", "none")
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise UserError(f"Checkpoint file {path} should be whole and readable. Found {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _require_loadable(value: Any, where: str) -> None:
    """Refuse at saving what `weights_only` would refuse at loading, when it is too late."""
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
