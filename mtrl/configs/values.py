"""Reads the values of options: text as typed, integers in any notation (such as 1e6), and the rest in Hydra's syntax.

The declared type of an option decides how its value is read. Paths and names therefore need no escapes; only those that
contain a comma, or look like Hydra's `choice(..)`, need quotes.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from mtrl.core.config import is_path_option
from mtrl.core.errors import UserError, expected

_LARGEST_EXPONENT = 30
"""Larger powers of ten are not read as integers; no option takes such values."""


def hint(owner: type[Any], names: Iterable[str]) -> Any:
    """The declared type of a dataclass's option; None if there is no such option.

    names: the option's path through nested dataclasses.
    """
    found: Any = owner
    for name in names:
        found = _hints(found).get(name) if is_dataclass(found) else None
    return found


def is_path(owner: type[Any], name: str) -> bool:
    """Whether a dataclass's option is a path or the name of a folder."""
    return any(field.name == name and is_path_option(field) for field in fields(owner))


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner)


def read(option: str, text: str, declared: Any, path: bool = False) -> Any:
    """The value to which `text` sets an option.

    Where the declared type allows text, `text` is taken as typed, minus quotes around all of it. In a path, `~`
    stands for the home folder. `null` is None where the type allows None.

    Raises:
        UserError: `text` is not one value in Hydra's syntax, is too large a number, or is a path with an unquoted
            comma.
    """
    kinds = _kinds(declared)
    if NoneType in kinds and text == "null":
        return None
    if str in kinds:
        return as_typed(_path(option, text) if path else _unquoted(text))
    if int in kinds and (number := _integer(_unquoted(text))) is not None:
        return number
    value = parse(text)
    if value is None:
        example = "one value, with unusual text in quotes, as [a-v3,'b (c)']" if "[" in text else "one value"
        raise expected(f"Option `{option}`", example, text)
    if value.is_sweep_override():
        raise expected(f"Option `{option}`", "one value here (a list stands in brackets)", text)
    found = value.value()
    numbers = found if isinstance(found, list) else [found]
    floats = float in {*kinds, *get_args(declared)}
    if floats and any(isinstance(number, int) and abs(number) >= 2**1023 for number in numbers):
        raise expected(f"Option `{option}`", "a finite number", text)
    return as_typed(found) if str in get_args(declared) else _whole(found, declared)


def parse(text: str) -> Override | None:
    """Parse a value in Hydra's syntax; None if it is not one."""
    try:
        return OverridesParser.create().parse_override(f"value={text}")
    except (HydraException, ValueError, RecursionError):  # such as for thousands of digits or brackets
        return None


def quoted(value: Any) -> str:
    """The text that `read` turns back into this value."""
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list):
        return f"[{','.join(map(_element, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _element(value: Any) -> str:
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else quoted(value)


def as_typed(value: Any) -> Any:
    """`value` with all text escaped, so that OmegaConf does not interpolate it."""
    if isinstance(value, dict):
        return {key: as_typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_typed(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _path(option: str, text: str) -> str:
    path = _unquoted(text)
    if path == text and "," in text:
        what = "one path or name, since it cannot have several values. With a comma in it, it is written"
        raise UserError(f"Option `{option}` should be {what} {option}=\"'{text}'\". Found {text!r}.")
    return os.path.expanduser(path)


def _kinds(declared: Any) -> tuple[Any, ...]:
    """The types that a value may have: the members of a union, or the type itself."""
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def is_whole(declared: Any) -> bool:
    """Whether the only numbers that a declared type allows are integers."""
    kinds = _kinds(declared)
    return int in kinds and float not in kinds


def _whole(value: Any, declared: Any) -> Any:
    """`value`, but a list that is declared as one of integers has its items converted to integers where possible."""
    if not isinstance(value, list) or int not in get_args(declared):
        return value
    numbers = [_integer(str(item)) for item in value]
    return [item if number is None else number for item, number in zip(value, numbers, strict=True)]


def _integer(text: str) -> int | None:
    """The integer that a text stands for in any notation; None if it is not an integer, or is too large."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    small = number.is_finite() and number.adjusted() <= _LARGEST_EXPONENT
    return int(number) if small and number == number.to_integral_value() else None


def leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The dotted name and the value of each leaf of nested dictionaries."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        yield from leaves(f"{prefix}.{name}".lstrip("."), part)
