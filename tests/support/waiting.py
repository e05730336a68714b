"""Waiting for what another process does, however slow the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 240.0
"""Seconds after which something is taken to hang; a test has 300 in all, if it does not say otherwise."""


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[Any], seconds: float = PATIENCE) -> None:
    """Return once something has happened. A process that ends before, or takes too long, fails the test."""
    until = time.monotonic() + seconds
    while not happened():
        code = process.poll()
        assert code is None or happened(), f"the process has ended with exit code {code}"
        if time.monotonic() > until:
            process.kill()
            raise AssertionError(f"nothing has happened in {seconds:g} seconds")
        time.sleep(0.02)
