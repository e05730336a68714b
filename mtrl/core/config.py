"""Checks on configuration values; the configuration classes stand beside what they configure."""

from __future__ import annotations

from typing import Any

from mtrl.core.errors import expected


def check(condition: bool, name: str, expectation: str, found: Any) -> None:
    """Raise the project's one form of error unless `condition` holds."""
    if not condition:
        raise expected(f"Option `{name}`", expectation, found)


def check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    check(found in choices, name, f"one of {', '.join(choices)}", found)
