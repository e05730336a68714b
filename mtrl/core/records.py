"""Reads JSON and YAML files that may be damaged or edited, and refuses malformed ones with an error of one line.

A shape is a type or a union of types (`int | None`), `[shape]` for a list, `{str: shape}` for a mapping with any names,
or `{"name": shape, ...}` for a mapping with these names and possibly others. `int` accepts integers of 64 bits,
`float` integers and floats of a size below 1e300, and `object` anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args

import yaml

from mtrl.core.errors import UserError, reading, shown

_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def read_json(path: Path, shape: Any) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is missing, unreadable, not JSON, or of another shape.
    """
    with reading(path, "a readable JSON file"):
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    require(value, shape, f"File {path}")
    return value


def read_yaml(path: Path, shape: Any, what: str = "File") -> Any:
    """The content of a YAML file. what: the word before the file's path in errors.

    Raises:
        UserError: it is missing, unreadable, not YAML, or of another shape.
    """
    with reading(path, "a readable YAML file", what):
        text = path.read_text(encoding="utf-8-sig")
        value = yaml.safe_load(text)
        _require_small(value, len(text))
    require(value, shape, f"{what} {path}")
    return value


def require(value: Any, shape: Any, what: str, place: str = "") -> None:
    """Raise UserError unless a value has a shape. place: where the value is within `what`, as a dotted name."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            _complain(what, place, "a list", value)
        for number, item in enumerate(value):
            require(item, shape[0], what, f"{place}[{number}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            _complain(what, place, "a mapping with text as its keys", value)
        for name, inner in shape.items():
            for key in value if name is str else (name,):
                require(value.get(key), inner, what, f"{place}.{key}".lstrip("."))
    elif shape is not object and not any(_is(value, kind) for kind in get_args(shape) or (shape,)):
        _complain(what, place, " or ".join(_NAMES[kind] for kind in get_args(shape) or (shape,)), value)


def _require_small(value: Any, letters: int) -> None:
    """Refuse nested YAML aliases, which can make the content far larger than the file of `letters` characters."""
    left, waiting = 1000 + 10 * letters, [value]
    while waiting:
        found = waiting.pop()
        inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
        left -= len(inner)
        if left < 0:
            raise ValueError("aliases in aliases")
        waiting.extend(inner)


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e300
    return isinstance(value, kind)


def _complain(what: str, place: str, wanted: str, found: Any) -> NoReturn:
    wanted = f"one with {wanted} as `{place}`" if place else wanted
    raise UserError(f"{what} should be {wanted}. Found {' '.join(shown(found).split())}.")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is not JSON")
