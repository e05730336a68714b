"""Ctrl-C and termination that wait for a whole step, so that what is saved then is a state to go on from exactly."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C; and what batch systems send some time before they kill."""


class Stopped(KeyboardInterrupt):
    """A signal came, and the step that it came in has been finished."""


class Interrupts:
    """While entered, a first signal only makes `check` raise; a second one interrupts at once.

    Outside of the main thread, which alone may handle signals, nothing changes.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self) -> None:
        """Call between whole steps.

        Raises:
            Stopped: there was a signal.
        """
        if self.pending:
            raise Stopped
