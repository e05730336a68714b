"""A clock for measurements whose results are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest


class Clock:
    """Stands for `time.perf_counter`: time passes only in the functions that are said to take some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.slowness = 1.0
        """The factor of every duration."""
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def spend(self, milliseconds: float) -> None:
        self.now += 1e-3 * self.slowness * milliseconds

    def takes(self, owner: Any, name: str, milliseconds: float | Callable[..., float]) -> None:
        """Let `owner.name` take so long. `milliseconds` is a function of its arguments if the time depends on them."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            self.spend(milliseconds(*arguments, **options) if callable(milliseconds) else milliseconds)
            return result

        self._monkeypatch.setattr(owner, name, timed)


class Beside:
    """Stands for `ThreadPoolExecutor(1)`: a submitted task's time passes in parallel with the caller's.

    slowness: how many times longer it takes beside the caller than alone.
    """

    def __init__(self, clock: Clock, slowness: float = 1.0) -> None:
        self.clock, self.slowness = clock, slowness

    def __call__(self, *_: Any) -> Beside:
        return self

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        begin = self.clock.now
        flight = _Flight(self.clock)
        flight.set_result(function(*arguments))
        flight.end, self.clock.now = begin + self.slowness * (self.clock.now - begin), begin
        return flight

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing is left running."""


class _Flight(Future[Any]):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.end = clock, 0.0

    def result(self, timeout: float | None = None) -> Any:
        self.clock.now = max(self.clock.now, self.end)
        return super().result(timeout)
