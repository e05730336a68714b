"""Waiting for what another process does, however slow the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0
"""Seconds after which something is taken to hang."""


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[Any], seconds: float = PATIENCE) -> None:
    """Return once something has happened. A process that ends before, or takes too long, fails the test."""
    until = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None or happened(), (process.returncode, process.communicate())
        if time.monotonic() > until:
            process.kill()
            raise AssertionError(f"nothing has happened in {seconds:g} seconds")
        time.sleep(0.02)
