"""Options and their limits. The configuration classes themselves are beside the code that they configure."""

from __future__ import annotations

import contextlib
import functools
import operator
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

from mtrl.core.errors import expected

PICTURES = ("curves", "means", "conflicts", "lambdas", "triad", "affinity", "relationships", "predictions")
"""The values of `mtrl plot --kind`."""
Limits = str | tuple[str, ...]
_INTERVAL = re.compile(r"in ([\[(]?)(\S+?)(?:, |\.\.)(\S+?)([\])]?)")
_FORMS = re.compile(r"positive|a positive integer|-?\d+ or more")
_TYPED: ContextVar[dict[str, str] | None] = ContextVar("typed", default=None)


@contextlib.contextmanager
def typed_as(groups: dict[str, str]) -> Iterator[None]:
    """Inside the block, `check` names options by the group that the user typed.

    groups: {group that the checks name: group that the user typed}, such as {"surgery": "critic_surgery"}.
    """
    token = _TYPED.set(groups)
    try:
        yield
    finally:
        _TYPED.reset(token)


def check(condition: bool, name: str, expectation: str, found: Any) -> None:
    """Unless `condition` holds, raise UserError: "Option `name` should be `expectation`. Found `found`."."""
    if not condition:
        group, dot, option = name.partition(".")
        raise expected(f"Option `{(_TYPED.get() or {}).get(group, group)}{dot}{option}`", expectation, found)


def check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `found` is one of `choices`."""
    check(found in choices, name, f"one of {', '.join(choices)}", found)


def option(default: Any, limits: Limits | None, **metadata: Any) -> Any:
    """A dataclass field for an option whose values have limits. A subclass that changes the default keeps the limits.

    limits: a tuple of the choices; or for a number, the text that error messages show: "positive", "a positive
    integer", "2 or more", or an interval such as "in [0, 1)" or "in 1..500" (inclusive); or None for no limits. A
    number may be None whatever its limits.

    Raises:
        UserError: `limits` has another form.
    """
    if isinstance(limits, str) and not _FORMS.fullmatch(limits) and not _INTERVAL.fullmatch(limits):
        known = '"positive", "a positive integer", "2 or more", "in [0, 1)", "in 1..500", or a tuple of the choices'
        raise expected("The limits of an option", f"None, {known}", limits)
    return field(default=default, metadata={"limits": limits, **metadata})


@dataclass
class Options:
    """A dataclass of options, whose limits are checked when an instance is made.

    Raises:
        UserError: a value is not within its limits.
    """

    option_group: ClassVar[str]
    """The group that messages put before an option's name: network, agent, ..."""

    def __post_init__(self) -> None:
        for name, limits in _limits(type(self)).items():
            value, place = getattr(self, name), f"{self.option_group}.{name}"
            if isinstance(limits, tuple):
                check_choice(place, value, limits)
            else:
                check(value is None or _fits(value, limits), place, limits, value)


@functools.cache
def _limits(config: type[Any]) -> dict[str, Limits]:
    """The limits of a dataclass's options, each from the most derived class that sets any.

    If no class limits `kind`, its default is its only choice.
    """
    kind: dict[str, Limits] = {"kind": (config.kind,)} if getattr(config, "kind", "") else {}
    tables = (owner.__dict__.get("__dataclass_fields__", {}) for owner in reversed(config.__mro__))
    return kind | {f.name: f.metadata["limits"] for table in tables for f in table.values() if f.metadata.get("limits")}


def _fits(value: float, limits: str) -> bool:
    if limits == "positive":
        return value > 0
    if interval := _INTERVAL.fullmatch(limits):
        above = operator.gt if interval[1] == "(" else operator.ge
        below = operator.lt if interval[4] == ")" else operator.le
        return above(value, float(interval[2])) and below(value, float(interval[3]))
    return value >= (1 if limits == "a positive integer" else int(limits.removesuffix(" or more")))


def runtime_option(default: Any, limits: Limits | None = None) -> Any:
    """A field for an option that does not change results, so a run may be resumed with another value of it."""
    return option(default, limits, changes_results=False)


def path_option(default: str, changes_results: bool = False) -> Any:
    """A field for an option that is a path or the name of a folder. A comma in its value never starts a sweep."""
    return field(default=default, metadata={"changes_results": changes_results, "path": True})


def is_path_option(option: Field[Any]) -> bool:
    return bool(option.metadata.get("path"))


def runtime_options(config: type[Any]) -> set[str]:
    """The names of a dataclass's runtime options, including those whose default a subclass has changed."""
    declared = [f for owner in config.__mro__ for f in owner.__dict__.get("__dataclass_fields__", {}).values()]
    return {f.name for f in declared if not f.metadata.get("changes_results", True)} & {f.name for f in fields(config)}
