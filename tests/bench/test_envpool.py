"""EnvPool's rows of `mtrl bench envs`: by a stand-in of known speed, and by EnvPool itself where it is installed."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mtrl.bench import envs as bench
from mtrl.bench.envpool_pools import EnvPools
from mtrl.envs.metaworld.suite import BENCHMARKS

SLEEP = 1e-3


class Pool:
    """Stands for one of EnvPool's pools: each step takes a millisecond, from `send` to `recv`."""

    def __init__(self, calls: list[tuple[str, str]], task: str, copies: int) -> None:
        self.calls, self.task, self.copies = calls, task, copies

    def reset(self) -> None:
        self.calls.append(("reset", self.task))

    def send(self, actions: np.ndarray) -> None:
        assert actions.shape == (self.copies, 4)
        self.calls.append(("send", self.task))

    def recv(self) -> tuple[np.ndarray, ...]:
        time.sleep(SLEEP)
        self.calls.append(("recv", self.task))
        return (np.zeros((self.copies, 39)),)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        self.send(actions)
        return self.recv()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(what, task) of each call of the stand-in's pools."""
    found: list[tuple[str, str]] = []

    def make(task: str, env_type: str, num_envs: int, **options: Any) -> Pool:
        assert env_type == "gymnasium" and 1 <= options["num_threads"] <= num_envs
        assert options["partially_observable"] is False, "goals are seen, as in ours"
        return Pool(found, task, num_envs)

    module = ModuleType("envpool")
    module.__spec__ = ModuleSpec("envpool", None)
    monkeypatch.setattr(module, "make", make, raising=False)
    monkeypatch.setitem(sys.modules, "envpool", module)
    monkeypatch.setattr(bench, "_package_runs", lambda _: nullcontext({}))
    monkeypatch.setattr(bench, "_peak_mb", lambda *_: 1.0)
    monkeypatch.setattr(bench, "_TURN", 0.02)
    return found


def test_pools_step_in_turn_or_at_once(calls: list[tuple[str, str]]) -> None:
    names = ["MetaWorld/PegInsertSide-v3", "MetaWorld/ButtonPressTopdownWall-v3"]
    pools = EnvPools(["peg-insert-side-v3", "button-press-topdown-wall-v3"], 3)
    assert calls == [("reset", name) for name in names]
    calls.clear()
    pools.step(np.zeros((2, 3, 4)))
    assert calls == [(what, name) for name in names for what in ("send", "recv")]
    calls.clear()
    pools.step_overlapped(np.zeros((2, 3, 4)))
    assert calls == [(what, name) for what in ("send", "recv") for name in names]


def test_rows_tell_the_speed_and_what_differs(calls: list[tuple[str, str]]) -> None:
    rows = {row["engine"]: row for row in bench.compare(("mt1",), (2,), 0.0)}
    assert {("reset", "MetaWorld/PickPlace-v3")} == {call for call in calls if call[0] == "reset"}
    assert {"ours", "bound", "envpool", "envpool_overlapped"} <= set(rows)
    for name in ("envpool", "envpool_overlapped"):
        assert 0 < rows[name]["steps_per_second"] < 2 / SLEEP, "two environments in at least a millisecond"
        assert rows[name]["mujoco"] != rows["ours"]["mujoco"] and rows[name]["goals"] != rows["ours"]["goals"]


def test_a_turn_has_a_step_wherever_the_machine_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes between any two looks at the clock."""
    seconds, taken = itertools.count(), list[np.ndarray]()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    assert bench._turn(taken.append, itertools.repeat(np.zeros((3, 4)))) == 3.0 and len(taken) == 1


@pytest.mark.parametrize("reason", ["not installed", "too many environments"])
def test_without_pools_there_are_no_rows(
    reason: str, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "not installed":
        monkeypatch.setattr(bench, "envpool_installed", lambda: False)
    else:
        monkeypatch.setattr(bench, "_MOST_IN_POOLS", 1)
    rows = {row["engine"] for row in bench.compare(("mt1",), (2,), 0.0)}
    assert "ours" in rows and not any(name.startswith("envpool") for name in rows) and calls == []


def test_both_ways_of_stepping_envpool_give_the_same_observations() -> None:
    pytest.importorskip("envpool", reason="the extra `bench` is not installed")
    tasks = ["pick-place-v3", "door-open-v3"]
    pools, overlapped = (EnvPools(tasks, 2) for _ in range(2))
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 2, 4)).astype(np.float32)
    for now in actions:
        np.testing.assert_array_equal(pools.step(now), overlapped.step_overlapped(now))
    goals = np.stack(pools.step(actions[0]))[..., 36:]
    assert (goals != 0).any(-1).all() and len(np.unique(goals.reshape(-1, 3), axis=0)) > 2


def test_envpool_knows_every_task() -> None:
    envpool = pytest.importorskip("envpool", reason="the extra `bench` is not installed")
    known = set(envpool.list_all_envs())
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envpool, "make", lambda task, **_: made.append(task) or Pool([], task, 1))
        EnvPools(list(BENCHMARKS["mt50"]), 1)
    assert len(made) == 50 and set(made) <= known
