"""Checks on configuration values; the configuration classes stand beside what they configure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import Field, field, fields
from typing import Any

from mtrl.core.errors import expected

PICTURES = ("curves", "conflicts", "lambdas", "triad", "affinity")
"""What `mtrl plot --kind` draws."""
_TYPED: ContextVar[dict[str, str] | None] = ContextVar("typed", default=None)


@contextlib.contextmanager
def typed_as(groups: dict[str, str]) -> Iterator[None]:
    """While entered, `check` calls options by the group that they were typed with: {usual group: that group}."""
    token = _TYPED.set(groups)
    try:
        yield
    finally:
        _TYPED.reset(token)


def check(condition: bool, name: str, expectation: str, found: Any) -> None:
    """Raise the project's one form of error unless `condition` holds."""
    if not condition:
        group, dot, option = name.partition(".")
        raise expected(f"Option `{(_TYPED.get() or {}).get(group, group)}{dot}{option}`", expectation, found)


def check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    check(found in choices, name, f"one of {', '.join(choices)}", found)


def runtime_option(default: Any) -> Any:
    """The field of an option that does not change results, so that two starts of the same run may differ in it."""
    return field(default=default, metadata={"changes_results": False})


def path_option(default: str, changes_results: bool = False) -> Any:
    """The field of an option that is a path, or the name of a folder: commas in it never mean several runs."""
    return field(default=default, metadata={"changes_results": changes_results, "path": True})


def is_path_option(option: Field[Any]) -> bool:
    return bool(option.metadata.get("path"))


def runtime_options(config: type[Any]) -> set[str]:
    """The names of a dataclass's runtime options; a subclass that gives one another default leaves it one."""
    declared = [f for owner in config.__mro__ for f in owner.__dict__.get("__dataclass_fields__", {}).values()]
    return {f.name for f in declared if not f.metadata.get("changes_results", True)} & {f.name for f in fields(config)}
