"""Threads in C do each job of each round once, whichever of them comes late."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from mtrl.core.native import FAILURES, compiled
from mtrl.envs.metaworld.pool import SOURCE, Job, Pool

COUNTING = """
typedef struct { int none; } MuJoCo;
typedef struct { long calls, copies, workers; } Task;
"""
STEP = """
long count(const MuJoCo *mujoco, const Task *task, long worker, long first, long last) {
  Task *counts = (Task *)task;
  for (volatile long n = 0; n < 50 * (last - first); n++) {}
  counts->calls++;
  counts->copies += last - first;
  counts->workers |= 1L << worker;
  return last - first;
}
"""


@pytest.fixture(params=[1, 2, 5])
def counting(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """A pool of so many threads, and a job's function that counts its calls in its task's three numbers."""
    try:
        library = compiled(COUNTING + SOURCE + STEP, "-pthread")
    except FAILURES as error:
        pytest.skip(f"no C compiler: {error}")
    pool = Pool(library, 0, request.param)
    step = ctypes.cast(library.count, ctypes.c_void_p).value
    yield SimpleNamespace(pool=pool, step=step, threads=request.param)
    pool.close()


def test_each_job_of_each_round_is_done_once(counting: SimpleNamespace) -> None:
    rng, counts, expected = np.random.default_rng(0), np.zeros((40, 3), np.int64), np.zeros((40, 2), np.int64)
    for _ in range(300):
        number = int(rng.integers(0, 41))
        sizes = rng.integers(1, 30, number)
        begins = [counts[n].ctypes.data for n in range(number)]
        counting.pool.plan([Job(counting.step, at, 3, 3 + int(k)) for at, k in zip(begins, sizes, strict=True)])
        for _ in range(10):
            assert counting.pool.run() == sizes.sum()
            expected[:number, 0] += 1
            expected[:number, 1] += sizes
            assert np.array_equal(counts[:, :2], expected)
    assert int(np.bitwise_or.reduce(counts[:, 2])) < 2**counting.threads


def test_a_late_thread_takes_no_job_of_a_larger_round(counting: SimpleNamespace) -> None:
    """Few jobs and many in turn: a thread that wakes after the few are done meets the many."""
    counts, rounds = np.zeros((40, 3), np.int64), 3000
    plans = [[Job(counting.step, counts[n].ctypes.data, 0, 1) for n in range(number)] for number in (2, 40)]
    for _ in range(rounds):
        for plan in plans:
            counting.pool.plan(plan)
            counting.pool.run()
    assert counts[:, 0].tolist() == [2 * rounds] * 2 + [rounds] * 38


def test_closing_twice_is_closing_once(counting: SimpleNamespace) -> None:
    counting.pool.plan([])
    counting.pool.run()
    counting.pool.close()
    counting.pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        counting.pool.run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_without_the_threads_is_refused_and_ends(counting: SimpleNamespace) -> None:
    child = os.fork()
    if not child:
        try:
            counting.pool.run()
        except RuntimeError as error:
            counting.pool.close()  # waits for no thread
            os._exit(7 if "forked process" in str(error) else 1)
        os._exit(2)
    # One thread is the caller's own, which the child has, too.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (7 if counting.threads > 1 else 2)
    counting.pool.run()
