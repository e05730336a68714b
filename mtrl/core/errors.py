"""The one kind of error that a user can cause."""

from __future__ import annotations

import contextlib
import os
import reprlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
"""The versions that a clone pins. An installed package has no such file."""


class UserError(ValueError):
    """Bad input from outside. Its message is one line; the command line prints it and exits with 2."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 400
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 60
"""How a message shows what was found: whole, unless a text has over 400 characters or a collection over 60 entries."""


def expected(what: str, expectation: str, found: Any) -> UserError:
    """The project's one form of error: what should be what, and what was found instead."""
    return UserError(f"{what} should be {expectation}. Found {shown(found)}.")


def shown(found: Any) -> str:
    """A value as error messages show it."""
    try:
        return _SHORT.repr(found)
    except ValueError:  # Python refuses to write out whole numbers of thousands of digits
        return f"{type(found).__name__} of thousands of digits"


def told(error: Exception, module: str) -> str:
    """The type and text of an error from another package's module, and that package's last line in its traceback."""
    root, text = module.partition(".")[0], " ".join(str(error).split())
    frames = traceback.walk_tb(error.__traceback__)
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in frames
        if str(frame.f_globals.get("__name__")).partition(".")[0] == root
    ]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        text, places = error.msg, [(error.filename, error.lineno)]
    where = f" ({os.path.relpath(places[-1][0])}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


@contextlib.contextmanager
def reading(path: Path | str, expectation: str, what: str = "File") -> Iterator[None]:
    """Turn every failure to read a file into a UserError, since each library fails on damaged files in its own ways.

    what: the word before the file's path in the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise expected(f"{what} {path}", expectation, reason) from error


def missing(what: str, package: str, extra: str, found: str = "") -> UserError:
    """The error for something that needs an optional package. found: what is wrong, if it is not simply missing."""
    in_clone = f"pip install -e '.[{extra}]' -c constraints.txt"
    how = in_clone if _CONSTRAINTS.exists() else f"install mtrl-toolkit again as before, with its extra [{extra}]"
    return UserError(f"{what} should be used with {package} installed: {how}. Found {found or f'no {package}'}.")
