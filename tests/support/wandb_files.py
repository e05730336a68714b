"""Reads what Weights & Biases keeps of a run offline: records of protobuf in LevelDB's format of log files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_FULL, _LAST = 1, 4


def records(path: Path) -> list[Any]:
    """The records of a `run-<id>.wandb`."""
    module = importlib.import_module("wandb.proto.wandb_internal_pb2")
    return [module.Record.FromString(data) for data in _payloads(path.read_bytes())]


def _payloads(data: bytes) -> Iterator[bytes]:
    place, parts = _FILE_HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:  # too little room for a header is left empty
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


def history(found: list[Any]) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in items.items() if not name.startswith("_")})
            rows[-1]["step"] = record.history.step.num
    return rows
