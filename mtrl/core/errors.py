"""The one class of errors for bad input, and functions that make its messages."""

from __future__ import annotations

import contextlib
import os
import reprlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
"""The pinned versions in a clone of the repository. An installed package does not have this file."""


class UserError(ValueError):
    """Bad input from a user. Its message is one line, which the command line prints before it exits with code 2."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 400
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 60
"""How a message shows a value: in full, unless text has over 400 characters or a collection has over 60 entries."""


def expected(what: str, expectation: str, found: Any) -> UserError:
    """A UserError in the form of all messages: "`what` should be `expectation`. Found `found`."."""
    return UserError(f"{what} should be {expectation}. Found {shown(found)}.")


def shown(found: Any) -> str:
    """A value as error messages show it."""
    try:
        return _SHORT.repr(found)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return f"{type(found).__name__} of thousands of digits"


def told(error: Exception, module: str) -> str:
    """The type and text of an error from another package's `module`, and the package's last line in the traceback."""
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
    """Inside the block, turn every error into a UserError, since each library fails on damaged files in its own ways.

    expectation: what the file should be, for the message. what: the word before the file's path.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise expected(f"{what} {path}", expectation, reason) from error


def missing(what: str, package: str, extra: str, found: str = "") -> UserError:
    """The error for something that needs an optional package.

    Args:
        what: what needs the package.
        extra: the extra of mtrl-toolkit that installs it.
        found: what is wrong with the package, if it is not simply missing.
    """
    in_clone = f"pip install -e '.[{extra}]' -c constraints.txt"
    how = in_clone if _CONSTRAINTS.exists() else f"install mtrl-toolkit again as before, with its extra [{extra}]"
    return UserError(f"{what} should be used with {package} installed: {how}. Found {found or f'no {package}'}.")
