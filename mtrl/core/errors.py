"""The one kind of error a user can cause."""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """Bad input from outside. Its message is one line; the command line prints it and exits with 2."""


def expected(what: str, expectation: str, found: Any) -> UserError:
    """The project's one form of complaint: what should be what, and what was found instead."""
    return UserError(f"{what} should be {expectation}. Found {found!r}.")


def missing(what: str, package: str, extra: str, found: str = "") -> UserError:
    """What cannot be used because an optional package is not installed, or what else was found."""
    command = f"pip install -e '.[{extra}]' -c constraints.txt"
    return UserError(f"{what} should be used with {package} installed: {command}. Found {found or f'no {package}'}.")
