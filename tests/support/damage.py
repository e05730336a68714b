"""Damage to files, drawn by hypothesis: cut, flipped, emptied, replaced, or with one value in them changed."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

ODD = st.sampled_from(
    [None, True, -1, 0, 3, 2**70, -(10**400), 1e300, 0.5, float("nan"), float("inf"), "", "x", "1", "é\n" * 99, "\0",
     "../../x", [], [None], [[]], ["x"], [[1, 2], [3]], {}, {"kind": "x"}, {"kind": None}, {"": {}}],
)  # fmt: skip


def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A value with one thing in it taken away, renamed or replaced."""
    inside = isinstance(value, dict | list) and len(value) > 0 and draw(st.integers(0, 4))
    if not inside:
        return draw(ODD)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    copy = value.copy()
    match draw(st.integers(0, 5)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[draw(st.sampled_from(["x", "kind", "format", "0"]))] = copy.pop(key)
        case _:
            copy[key] = mutated(draw, copy[key])
    return copy


def rewritten(draw: st.DrawFn, name: str, content: bytes) -> bytes:
    """A JSON or YAML file with one thing in it changed."""
    if name.endswith(".jsonl"):
        lines = content.splitlines()
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(mutated(draw, json.loads(lines[number]))).encode()
        return b"\n".join(lines) + b"\n"
    if name.endswith(".json"):
        return json.dumps(mutated(draw, json.loads(content))).encode()
    return yaml.safe_dump(mutated(draw, yaml.safe_load(content))).encode()


@st.composite
def damages(draw: st.DrawFn, name: str, content: bytes | None) -> Callable[[Path], None]:
    """What is done to a file, or to a folder (no content)."""
    kinds = ["gone", "other", "link"]
    if content is not None:
        kinds += ["empty", "cut", *["bit"] * 4, "bytes", *["text"] * 8 * name.endswith((".json", ".jsonl", ".yaml"))]
    kind = draw(st.sampled_from(kinds))
    position = draw(st.integers(0, max(len(content or b"") - 1, 0)))
    new = bytearray(content or b"")
    match kind:
        case "cut":
            del new[position:]
        case "bit":
            new[position] ^= 1 << draw(st.integers(0, 7))
        case "bytes":
            new[position : position + draw(st.integers(0, 20))] = draw(st.binary(max_size=9))
        case "text":
            new = bytearray(rewritten(draw, name, content or b""))

    def damage(path: Path) -> None:
        if kind in ("gone", "other", "link"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "link":
            path.symlink_to("nowhere")
        elif kind == "other" and content is None:
            path.write_text("x")
        elif kind == "other":
            path.mkdir()
        elif kind not in ("gone",):
            path.write_bytes(b"" if kind == "empty" else bytes(new))

    return damage


def flip(path: Path) -> None:
    """One bit of the first record, as what fills the space between records means nothing."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
    header = content[first.header_offset :]
    lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]  # of its name and what fills the space
    content[first.header_offset + 30 + sum(lengths) + first.file_size // 2] ^= 1
    path.write_bytes(content)
