"""Ctrl-C and termination signals wait for the end of a step, so that the saved state can be continued exactly."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, a closed terminal, and the signals that batch systems send some time before they kill a job."""


class Stopped(KeyboardInterrupt):
    """A signal has arrived, and the current step has been finished."""


class Interrupts:
    """In its `with` block, a first signal only makes `check` raise; a second one interrupts at once.

    It has no effect outside the main thread, since only that thread may handle signals. Signals that were ignored
    before, as with nohup, stay ignored. A process that is forked inside the block still ends at the first signal.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.handle(number)

    def handle(self, number: int) -> None:
        """Note a first signal. A second one raises KeyboardInterrupt."""
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self) -> None:
        """Call between whole steps.

        Raises:
            Stopped: there was a signal.
        """
        if self.pending and os.getpid() == self._process:
            raise Stopped
