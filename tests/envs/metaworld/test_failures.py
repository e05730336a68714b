"""Copies that fail, threads that die, steps that are broken off."""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mtrl.envs.metaworld import engine
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite
from mtrl.envs.metaworld.workers import Workers
from tests.support.metaworld_rollouts import draw_actions, run
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def trio() -> MetaWorldSuite:
    return MetaWorldSuite(Config("custom", tasks=["pick-place-v3", "drawer-open-v3", "hammer-v3"], horizon=12))


@pytest.fixture
def running(trio: MetaWorldSuite, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchedEnvs]:
    """In a folder of its own: MuJoCo writes MUJOCO_LOG.TXT into the working folder."""
    monkeypatch.chdir(tmp_path)
    envs = trio.batched_envs(0, 2, threads=2)
    envs.reset()
    run(envs, draw_actions(3, 3, 2))
    yield envs
    envs.close()


@pytest.fixture(params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of stepping; the way is set before environments are made."""
    if request.param == "python":
        monkeypatch.setattr(engine, "compiled_steps", lambda *_: None)
    elif not shutil.which("cc"):
        pytest.skip("no C compiler")
    return request.param


@pytest.mark.parametrize("failure", ["unstable", "error", "nan"])
def test_a_copy_that_fails_starts_anew_and_is_counted(failure: str, way: str, running: BatchedEnvs) -> None:
    before, first, arithmetic = running.observation[0, 1].copy(), running.physics[0], running._arithmetic[0]
    if failure == "unstable":
        first.datas[1].qvel[:] = 1e12
    elif failure == "error":
        first.models[1].opt.integrator = 99
    else:
        arithmetic.constants[1] = np.nan
        arithmetic._fill_constants(arithmetic._states[1], arithmetic.constants[1].tolist())
    step = run(running, draw_actions(1, 3, 2))[0]
    first.models[1].opt.integrator = first.models[0].opt.integrator
    assert running.faults.tolist() == [[0, 1], [0, 0], [0, 0]]
    assert step["truncated"].tolist() == [[False, True], [False, False], [False, False]]
    assert step["reward"][0, 1] == 0 and not step["terminated"].any()
    assert np.array_equal(step["next_observation"][0, 1], before)
    rest = run(running, draw_actions(11, 3, 2))
    assert all(np.isfinite(step["observation"]).all() for step in rest)
    assert [bool(step["truncated"][0, 0]) for step in rest].index(True) == 7
    assert running.faults.sum() == 1


def test_a_plan_that_is_broken_off_is_made_by_the_next_reset(way: str, trio: MetaWorldSuite) -> None:
    envs = trio.batched_envs(0, 2, threads=2)
    plan = envs._steps.plan
    envs._steps.plan = lambda chunks: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        envs.reset()
    envs._steps.plan = plan
    before = envs.reset().copy()
    assert not np.array_equal(envs.step(np.ones((3, 2, 4), np.float32)).next_observation[..., :3], before[..., :3])
    envs.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_step_that_is_broken_off_leaves_no_half_state(
    error: BaseException, running: BatchedEnvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    step_all = running._steps.run
    monkeypatch.setattr(running._steps, "run", fail)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        running.step(draw_actions(1, 3, 2)[0])
    with pytest.raises(RuntimeError, match="reset"):
        running.state_dict()
    monkeypatch.setattr(running._steps, "run", step_all)
    running.reset()
    assert np.isfinite(running.step(draw_actions(1, 3, 2)[0]).reward).all()


def test_a_thread_that_dies_or_fails_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, caller = Workers(2), threading.current_thread()
    started = threading.Event()

    def fail(job: int, worker: int) -> None:
        if threading.current_thread() is caller:
            assert started.wait(PATIENCE)
            return
        started.set()
        raise SystemExit

    with pytest.raises(RuntimeError, match="An environment thread has failed: SystemExit"):
        workers.run(fail, range(2))
    workers._function = None
    workers._gates[0].release()
    workers._threads[0].join(PATIENCE)
    with pytest.raises(RuntimeError, match="has died"):
        workers.run(lambda job, worker: None, range(4))
    workers.close()


def test_closing_leaves_no_thread_and_neither_does_forgetting(trio: MetaWorldSuite) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("mtrl-physics")]

    gc.collect()  # other tests may have left environments in cycles
    before = threads()
    envs = trio.batched_envs(0, 1, threads=3)
    envs.reset()
    assert len(threads()) == len(before) + 2
    envs.close()
    envs.close()
    assert threads() == before
    trio.batched_envs(0, 1, threads=3)
    assert threads() == before


def test_an_interrupt_ends_the_process() -> None:
    code = (
        "import signal, threading, numpy as np; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mtrl.envs.metaworld.suite import Config, MetaWorldSuite\n"
        "envs = MetaWorldSuite(Config('mt1', tasks=['reach-v3'])).batched_envs(0, 4, threads=3)\n"
        "envs.reset()\n"
        "threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()\n"
        "while True: envs.step(np.zeros((1, 4, 4), np.float32))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr
