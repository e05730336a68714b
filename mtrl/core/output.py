"""Keeps a long run going when its output cannot be written, as after `| head` or on a full disk."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class _Lasting:
    """A text stream that discards everything after a write to it has failed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """The first failure."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._kept():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._kept():
            self._stream.flush()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with open(os.devnull, "wb") as nowhere:  # discards buffered text and child processes' output, too
                os.dup2(nowhere.fileno(), self._stream.fileno())


def _without_files(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """`hook`, a `threading.excepthook`, without reports of OSErrors. They are not lost: a thread that writes files,
    such as TensorBoard's, stores its error, and the next call that gives it work raises it."""
    return lambda arguments: None if isinstance(arguments.exc_value, OSError) else hook(arguments)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Inside the block, the program continues even if it can no longer write to standard output or standard error.

    Characters that their encodings lack are written as escapes.

    Raises:
        OSError: at the end of the block, if part of standard output was lost, unless its reader closed the pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = _without_files(threading.excepthook)
        out = stack.enter_context(contextlib.redirect_stdout(_Lasting(sys.stdout))) if sys.stdout else None
        err = stack.enter_context(contextlib.redirect_stderr(_Lasting(sys.stderr))) if sys.stderr else None
        try:
            yield
        finally:
            for stream in filter(None, (out, err)):
                stream.flush()
        if out and out.error and not isinstance(out.error, BrokenPipeError):
            out.error.filename = "standard output"
            raise out.error
