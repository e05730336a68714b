"""Options: limits beside their defaults, checked when a configuration is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from mtrl.core.config import Options, option
from mtrl.core.errors import UserError


def made(limits: str | tuple[str, ...], value: Any) -> Options:
    @dataclass
    class Config(Options):
        option_group: ClassVar[str] = "network"
        width: Any = option(None, limits)  # noqa: RUF009 (a field, as `dataclasses.field` makes it)

    return Config(width=value)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ("positive", (1e-300, 3, math.inf), (0, -1, math.nan)),
        ("0 or more", (0, 0.5), (-1e-9, math.nan)),
        ("16 or more", (16, 17), (15,)),
        ("a positive integer", (1, 2), (0, -1)),
        ("in [0, 1)", (0, 0.999), (1, -1e-9, math.nan)),
        ("in (0, 1]", (1e-9, 1), (0, 1.001)),
        ("in (0, 4]", (4.0,), (0.0, 4.1)),
        ("in 1..500", (1, 500), (0, 501)),
        (("task", "shared"), ("task", "shared"), ("tas", "", "task, shared")),
    ],
)
def test_limits_mean_what_the_message_says(limits: str | tuple[str, ...], inside: Any, outside: Any) -> None:
    for value in inside:
        made(limits, value)
    wanted = limits if isinstance(limits, str) else f"one of {', '.join(limits)}"
    for value in outside:
        with pytest.raises(UserError) as caught:
            made(limits, value)
        assert str(caught.value) == f"Option `network.width` should be {wanted}. Found {value!r}."


def test_no_number_is_within_the_limits_of_numbers() -> None:
    made("positive", None)


@dataclass
class Usual(Options):
    option_group: ClassVar[str] = "agent"
    kind: str = "usual"
    rate: float = option(0.5, "in (0, 1]")


@dataclass
class Other(Usual):
    kind: str = "other"
    rate: float = 0.25


@dataclass
class Wider(Usual):
    rate: float = option(2.0, "positive")


def test_a_subclass_keeps_the_limits_of_an_option_unless_it_gives_its_own() -> None:
    assert Other().rate == 0.25 and Wider().rate == 2.0
    with pytest.raises(UserError, match=r"`agent.rate` should be in \(0, 1\]. Found 2"):
        Other(rate=2)
    with pytest.raises(UserError, match=r"`agent.rate` should be positive. Found 0"):
        Wider(rate=0)


def test_the_kind_is_that_of_the_class() -> None:
    with pytest.raises(UserError, match=r"`agent.kind` should be one of other. Found 'usual'"):
        Other(kind="usual")


@pytest.mark.parametrize("limits", ["non-negative", "> 0", "0 and more", "in 0 to 1", "1.5 or more"])
def test_limits_of_another_form_are_refused_where_they_are_written(limits: str) -> None:
    with pytest.raises(UserError, match=r"\"2 or more\", .* a tuple of the choices. Found ") as caught:
        option(0, limits)
    assert repr(limits) in str(caught.value)
