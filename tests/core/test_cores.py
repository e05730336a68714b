"""Two computations at once, PyTorch's threads, and cores of one's own."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mtrl.core import native
from mtrl.core.cores import free_cores, side_by_side, torch_threads, usable_device
from mtrl.core.errors import UserError


@pytest.fixture(params=[2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


def test_both_run_at_the_same_time_with_half_of_the_threads_each(threads: int) -> None:
    meeting = threading.Barrier(2)

    def meet() -> int:
        meeting.wait(timeout=60)
        return torch.get_num_threads()

    assert side_by_side(meet, meet) == (threads // 2, threads // 2)
    assert torch.get_num_threads() == threads


def test_one_thread_takes_them_in_turn() -> None:
    order: list[str] = []
    with torch_threads(1):
        side_by_side(lambda: order.append("first"), lambda: order.append("second"))
    assert order == ["first", "second"]


@pytest.mark.parametrize("tracked", [True, False])
def test_gradients_are_tracked_where_the_caller_tracks_them(threads: int, tracked: bool) -> None:
    with torch.set_grad_enabled(tracked):
        assert side_by_side(torch.is_grad_enabled, torch.is_grad_enabled) == (tracked, tracked)


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_fails_after_the_other_has_ended(threads: int, failing: int) -> None:
    ended: list[int] = []

    def one(number: int) -> None:
        if number == failing:
            raise ValueError(str(number))
        ended.append(number)

    with pytest.raises(ValueError, match=str(failing)):
        side_by_side(lambda: one(0), lambda: one(1))
    assert ended == [1 - failing]
    assert torch.get_num_threads() == threads


def test_nobody_has_a_core_that_another_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7}, raising=False)
    with free_cores(1) as one, free_cores(2) as two:
        assert (one, two) == ([2], [3, 5])
        with free_cores(2) as too_many, free_cores(1) as last, free_cores(1) as none:
            assert (too_many, last, none) == ([], [7], [])
    with free_cores(3) as again, free_cores(4) as all_of_them:
        assert (again, all_of_them) == ([2, 3, 5], [])


@pytest.mark.parametrize("name", ["meta", "hpu", "privateuseone", "", "cuda:x"])
def test_devices_on_which_nothing_is_computed_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="`device` should be auto, cpu, or a GPU that PyTorch sees"):
        usable_device(name)


def test_a_compiler_command_that_cannot_be_read_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc '")
    assert native.function("int none(void) { return 1; }", "none", (), "No C", ()) is None
