"""Threads that share a list of jobs. The calling thread is one of them; the others end with the process.

They are meant for jobs that spend most of their time outside Python (``mj_step`` releases the interpreter's lock).
Threads take jobs one by one, so that slow jobs balance out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mtrl.core.types import BoolArray

Job = Callable[[int, int], None]
"""Called with a job and the index of the thread that does it, which is 0 for the caller's."""

_PATIENCE = 1.0
"""Seconds between two checks that a thread is still alive, while the caller waits for it."""
_LONGEST_END = 60.0
"""The most seconds for which `close` waits for a thread to end."""
_SHARES = 2
"""A chunk of `shares` has at most (copies left) / (_SHARES * threads) copies, but at least one."""


class Workers:
    """A pool of threads, including the caller's.

    Args:
        count: the number of threads; with 1, everything runs in the caller's thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._function: Job | None = None
        self._jobs: Iterator[int] = iter(())
        self._error: BaseException | None = None
        self._gates = [threading.Lock() for _ in range(count - 1)]
        self._done = [threading.Event() for _ in range(count - 1)]
        self._given, self._finished = [0] * (count - 1), [0] * (count - 1)  # rounds given to each thread and done by it
        for gate in self._gates:
            gate.acquire()
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"mtrl-physics-{i + 1}", daemon=True)
            for i in range(count - 1)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, function: Job, jobs: Sequence[int]) -> None:
        """Call ``function(job, worker)`` for each job, in any order, and return when all are done.

        Raises:
            RuntimeError: another thread has died or failed. If it failed, its exception is the cause.
        """
        self._function, self._error = function, None
        # Taking from the iterator of a list is atomic.
        self._jobs = iter(list(jobs))
        try:
            self._wake(len(jobs) - 1)
            self._work(0)
        finally:
            self._drop_jobs()
            self._wait()
            self._function = None
        if self._error is not None:
            error = self._error
            raise RuntimeError(f"An environment thread has failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End the threads. A second call does nothing."""
        for gate, thread in zip(self._gates, self._threads, strict=True):
            self._function = None
            if thread.is_alive() and gate.locked():
                gate.release()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_LONGEST_END)

    def _wake(self, jobs: int) -> None:
        for i in range(min(jobs, len(self._threads))):
            self._done[i].clear()
            self._gates[i].release()
            self._given[i] += 1

    def _wait(self) -> None:
        """Wait for all threads, also after an interrupt, so that no job runs on into the next round."""
        error: BaseException | None = None
        for i, thread in enumerate(self._threads):
            while self._finished[i] < self._given[i] and thread.is_alive():
                try:
                    self._done[i].wait(_PATIENCE)
                except BaseException as interrupt:
                    error = interrupt
            if self._finished[i] < self._given[i]:
                error = error or RuntimeError("An environment thread has died.")
        if error is not None:
            raise error

    def _drop_jobs(self) -> None:
        for _ in self._jobs:
            pass

    def _work(self, worker: int) -> None:
        function = self._function
        if function is None:
            return
        for job in self._jobs:
            function(job, worker)

    def _serve(self, i: int) -> None:
        while True:
            self._gates[i].acquire()
            if self._function is None:
                return
            try:
                self._work(i + 1)
            except BaseException as error:
                self._error = error
                self._drop_jobs()
            self._finished[i] += 1
            self._done[i].set()


def shares(playing: BoolArray, threads: int) -> list[list[tuple[int, int]]]:
    """For each task, the chunks (first, end) of the copies marked in ``playing (T, N)``; ``end`` is excluded."""
    left, found = int(playing.sum()), []
    for row in playing:
        copies, ranges = np.flatnonzero(row), []
        for together in np.split(copies, np.flatnonzero(np.diff(copies) > 1) + 1) if len(copies) else ():
            first, end = int(together[0]), int(together[-1]) + 1
            while first < end:
                last = min(end, first + max(1, left // (_SHARES * threads)))
                ranges.append((first, last))
                left -= last - first
                first = last
        found.append(ranges)
    return found
