"""Writes files so that a crash leaves either the old content or the new, never half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH = 120
"""The most characters, with indentation, of a value on one line. Lists that contain no lists or dictionaries are always
on one line."""


def sync_folder(folder: Path) -> None:
    """Make changes to the folder's entries (creations, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Replace the file's content in one step. Raises OSError if that fails; the old content then remains."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8", errors="backslashreplace") as file:  # names of files may not be UTF-8
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def plain(value: Any) -> Any:
    """`value` in JSON's own types: arrays and tensors as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value`, converted by `plain`, as indented JSON, atomically."""
    write_atomic(path, _in_lines(plain(value)) + "\n")


def _in_lines(value: Any, indent: str = "") -> str:
    """JSON on one line if that has room for it. Otherwise a dictionary, or a list that contains dictionaries or lists,
    has a line for each entry."""
    line, further = json.dumps(value, allow_nan=False), indent + "  "
    if len(indent) + len(line) <= WIDTH:
        return line
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_in_lines(item, further)}" for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        parts = [_in_lines(item, further) for item in value]
    else:
        return line
    opening, closing = line[0], line[-1]
    return f"{opening}\n{further}" + f",\n{further}".join(parts) + f"\n{indent}{closing}"
