"""Copies that fail, threads that die, steps that are broken off."""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.envs.metaworld import engine
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite
from mtrl.envs.metaworld.workers import Workers
from tests.support.metaworld_rollouts import assert_same, draw_actions, run
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


def test_a_fault_in_the_last_episode_counts_once(way: str, trio: MetaWorldSuite) -> None:
    envs = trio.batched_envs(0, 1, threads=2, with_info=True, schedule=np.zeros((3, 1), np.int64))
    envs.reset()
    arithmetic = envs._arithmetic[0]
    arithmetic.constants[0] = np.nan
    arithmetic._fill_constants(arithmetic._states[0], arithmetic.constants[0].tolist())
    run(envs, draw_actions(5, 3, 1))
    assert envs.faults.tolist() == [[1], [0], [0]] and envs._elapsed.tolist() == [[1], [5], [5]]
    assert all(np.isfinite(term).all() for term in envs.info().values())
    envs.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_plan_that_is_broken_off_is_made_by_the_next_reset(moment: str, way: str, trio: MetaWorldSuite) -> None:
    """Interrupted before a plan is stored, or just after one that leaves out a copy whose episodes are all played."""
    envs = trio.batched_envs(0, 2, threads=2, schedule=np.zeros((3, 2), np.int64))
    plan = envs._steps.plan

    def interrupted(chunks: list[tuple[int, int, int]]) -> None:
        if moment == "after":
            plan(chunks)
        raise KeyboardInterrupt

    if moment == "after":
        envs.reset()
        envs._last[0, 0] = 1
    envs._steps.plan = interrupted
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.zeros((3, 2, 4), np.float32)) if moment == "after" else envs.reset()
    envs._steps.plan = plan
    before = envs.reset().copy()
    after = envs.step(np.ones((3, 2, 4), np.float32)).next_observation
    assert (after[..., :3] != before[..., :3]).any(-1).all()
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


def test_a_start_that_is_broken_off_leaves_no_half_state(running: BatchedEnvs, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, begin = running.state_dict(), running.physics[1].begin
    expected = run(running, draw_actions(3, 3, 2))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    some = np.ones((3, 2), np.bool_)
    some[0, 0] = False
    for start in (running.reset, lambda: running.restart(some), lambda: running.load_state_dict(saved)):
        running.load_state_dict(saved)
        monkeypatch.setattr(running.physics[1], "begin", fail)
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            start()
        for use in (running.state_dict, lambda: run(running, draw_actions(1, 3, 2)), lambda: running.restart(some)):
            with pytest.raises(RuntimeError, match="reset"):
                use()
        monkeypatch.setattr(running.physics[1], "begin", begin)
    running.load_state_dict(saved)
    assert_same(run(running, draw_actions(3, 3, 2)), expected)


def test_refused_actions_change_nothing(running: BatchedEnvs) -> None:
    saved = running.state_dict()
    expected = run(running, draw_actions(2, 3, 2))
    running.load_state_dict(saved)
    for action in (np.zeros((3, 2, 3)), np.full((3, 2, 4), "left")):
        with pytest.raises((UserError, ValueError)):
            running.step(action)
    assert_same(run(running, draw_actions(2, 3, 2)), expected)


def test_after_an_interrupted_step_a_vector_environment_can_be_reset() -> None:
    envs: Any = gymnasium.make_vec("mtrl/MT1-v3", task="reach-v3")
    envs.reset(seed=0)
    inner = envs.unwrapped.envs
    step_all = inner._steps.run
    inner._steps.run = lambda: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        envs.step(envs.action_space.sample())
    inner._steps.run = step_all
    envs.reset()
    assert np.isfinite(envs.step(envs.action_space.sample())[1]).all()
    envs.close()


def test_closing_waits_for_a_step_of_another_thread(trio: MetaWorldSuite) -> None:
    envs, begun, errors = trio.batched_envs(0, 2, threads=1), threading.Event(), list[str]()
    envs.reset()

    def work() -> None:
        try:
            for action in draw_actions(100_000, 3, 2):
                envs.step(action)
                begun.set()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(PATIENCE)
    envs.close()
    thread.join(PATIENCE)
    assert errors == ["These environments are closed."]


def test_an_interrupt_while_threads_work_leaves_none_of_them_at_work() -> None:
    """An interrupted round ends before the next one begins, and later rounds do all of their jobs."""
    workers, begun, ended = Workers(2), threading.Event(), list[int]()
    main = threading.main_thread()

    def work(job: int, worker: int) -> None:
        if threading.current_thread() is main:
            assert begun.wait(PATIENCE)
            return
        begun.set()
        time.sleep(0.1)  # the caller has done its job by then, and waits
        signal.pthread_kill(main.ident or 0, signal.SIGINT)
        time.sleep(0.2)
        ended.append(job)

    interval = sys.getswitchinterval()
    with pytest.raises(KeyboardInterrupt):
        workers.run(work, range(2))
    assert len(ended) == 1 and sys.getswitchinterval() == interval
    for _ in range(20):
        ended.clear()
        workers.run(lambda job, worker: ended.append(job), range(5))
        assert sorted(ended) == list(range(5))
    workers.close()


def test_a_thread_that_fails_is_an_error_and_the_other_jobs_are_dropped() -> None:
    workers, started, ended = Workers(2), threading.Event(), list[int]()

    def fail(job: int, worker: int) -> None:
        if worker:
            started.set()
            raise SystemExit
        assert started.wait(PATIENCE)
        time.sleep(0.01)
        ended.append(job)

    with pytest.raises(RuntimeError, match="An environment thread has failed: SystemExit"):
        workers.run(fail, range(10_000))
    assert len(ended) < 1000
    workers.run(lambda job, worker: ended.append(-1), range(4))
    assert ended.count(-1) == 4
    workers.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_thread_that_is_dead_is_an_error_not_a_hang() -> None:
    """As in a forked process, which has none of the threads."""
    workers = Workers(2)
    child = os.fork()
    if child == 0:
        try:
            workers.run(lambda job, worker: None, range(4))
        except RuntimeError as error:
            os._exit(7 if "has died" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
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
