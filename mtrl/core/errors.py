"""The one kind of error a user can cause."""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """Bad input from outside. Its message is one line; the command line prints it and exits with 2."""


def expected(what: str, expectation: str, found: Any) -> UserError:
    """The project's one form of complaint: what should be what, and what was found instead."""
    return UserError(f"{what} should be {expectation}. Found {found!r}.")
