"""Environment steps per second: our engine, the package's vector environments, and the physics alone.

All are measured in turn in one process on the same cores, so that a noisy machine is noisy for all alike.
"""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import gymnasium
import mujoco
import numpy as np

from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.physics import SUBSTEPS
from mtrl.envs.metaworld.starts import INTEGRATION
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite
from mtrl.envs.metaworld.workers import Workers

_TURN = 0.4
"""Seconds that one of them runs before the next has its turn."""
_BOUND = "bound"
Run = Callable[[], int]
"""Takes some environment steps and says how many."""


def bench(
    kinds: Sequence[str] = ("mt10", "mt50"), copies: Sequence[int] = (1, 4, 16), seconds: float = 5.0
) -> list[dict[str, Any]]:
    """A row for each suite, number of copies and engine: steps per second, and their ratio to the bound.

    ``bound`` is 5 ``mj_step`` and one ``mj_forward`` with our models on the same threads; ``bound_full`` the same with
    the package's models, visuals included. ``package_sync`` and ``package_async`` are the package's own vector
    environments; they have one copy of each task and nearly the same speed with more. ``peak_mb`` is the
    memory of a process with our engine and nothing else.

    Args:
        seconds: for each row.
    """
    rows = []
    for kind in kinds:
        package = {name: _PackageRun(kind, name) for name in ("sync", "async")}
        try:
            for n in copies:
                rows += _compare(kind, n, seconds, {f"package_{name}": run for name, run in package.items()})
        finally:
            for run in package.values():
                run.close()
    return rows


def _compare(kind: str, copies: int, seconds: float, package: dict[str, Run]) -> list[dict[str, Any]]:
    suite = MetaWorldSuite(Config(kind))
    envs = suite.batched_envs(0, copies)
    envs.reset()
    ours = _EngineRun(envs)
    bounds = {_BOUND: _BoundRun(envs, whole=False), f"{_BOUND}_full": _BoundRun(envs, whole=True)}
    try:
        speeds = _interleaved({"ours": ours, **bounds, **package}, seconds, tuple(bounds.values()))
    finally:
        for part in (envs, *bounds.values()):
            part.close()
    rows = []
    for name, values in speeds.items():
        row = {"suite": kind, "copies": copies, "threads": envs.threads, "engine": name}
        row["steps_per_second"] = median(values)
        row["of_bound"] = median(value / bound for value, bound in zip(values, speeds[_BOUND], strict=True))
        rows.append(row | ({"peak_mb": _peak_mb(kind, copies)} if name == "ours" else {}))
    return rows


def _interleaved(runs: dict[str, Run], seconds: float, bounds: Sequence[_BoundRun]) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(1, round(seconds / _TURN))):
        for bound in bounds:
            bound.copy_states()
        for name, run in runs.items():
            speeds[name].append(_speed(run))
    return speeds


def _speed(run: Run) -> float:
    begin, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < _TURN:
        steps += run()
    return steps / passed


def _peak_mb(kind: str, copies: int) -> float:
    """Largest resident memory of a process that steps the engine, everything included; NaN where there is no /proc.

    Not `resource.getrusage`: on Linux a child starts with its parent's maximum.
    """
    if not sys.platform.startswith("linux"):
        return float("nan")
    code = (
        "import numpy as np\n"
        "from mtrl.envs.metaworld.suite import Config, MetaWorldSuite\n"
        f"envs = MetaWorldSuite(Config({kind!r})).make_envs(0, {copies})\n"
        "envs.reset()\n"
        "for _ in range(20): envs.step(np.zeros((envs.num_tasks, envs.envs_per_task, 4), np.float32))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1024 / 1e6


def _actions(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (64, *shape, 4)).astype(np.float32)


class _EngineRun:
    def __init__(self, envs: BatchedEnvs) -> None:
        self._envs, self._count = envs, envs.num_tasks * envs.envs_per_task
        self._actions = itertools.cycle(_actions(envs.num_tasks, envs.envs_per_task))

    def __call__(self) -> int:
        self._envs.step(next(self._actions))
        return self._count


class _PackageRun:
    """``gymnasium.make_vec("Meta-World/MT10", ...)`` and its like."""

    def __init__(self, kind: str, strategy: str) -> None:
        self._envs = gymnasium.make_vec(f"Meta-World/{kind.upper()}", vector_strategy=strategy, seed=0)
        self._envs.reset()
        self._actions = itertools.cycle(_actions(self._envs.num_envs))

    def __call__(self) -> int:
        self._envs.step(next(self._actions))
        return self._envs.num_envs

    def close(self) -> None:
        self._envs.close()


class _BoundRun:
    """The physics of all copies from the engine's present states, and nothing else."""

    def __init__(self, envs: BatchedEnvs, whole: bool) -> None:
        self._envs, self._workers = envs, Workers(envs.threads)
        models = [whole_model(task) if whole else p.models[0] for task, p in zip(envs.tasks, envs.physics, strict=True)]
        self._pairs = [
            (model, mujoco.MjData(model), physics, n)
            for model, physics in zip(models, envs.physics, strict=True)
            for n in range(envs.envs_per_task)
        ]
        self._jobs = range(len(self._pairs))

    def copy_states(self) -> None:
        for model, data, physics, n in self._pairs:
            ours = physics.models[0]
            model.body_pos, model.site_pos, model.eq_data = ours.body_pos, ours.site_pos, ours.eq_data
            mujoco.mj_setState(model, data, physics.state(n), INTEGRATION)

    def __call__(self) -> int:
        step, forward, pairs = mujoco.mj_step, mujoco.mj_forward, self._pairs

        def work(job: int, _: int) -> None:
            model, data = pairs[job][:2]
            step(model, data, SUBSTEPS)
            forward(model, data)

        self._workers.run(work, self._jobs)
        return len(pairs)

    def close(self) -> None:
        self._workers.close()
