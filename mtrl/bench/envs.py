"""mtrl bench envs: environment steps per second, compared with EnvPool, `metaworld` and the physics alone.

They take turns on the same cores, so that other work on the machine slows all of them equally.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import gymnasium
import numpy as np

from mtrl.bench.bare_physics import BarePhysics, can_run
from mtrl.bench.envpool_pools import FACTS, EnvPools, envpool_installed
from mtrl.bench.report import machine
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.suite import GOALS, Config, MetaWorldSuite
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.progress import counted
from mtrl.monitoring.video import RenderingUnavailable

_TURN = 0.4
"""About how many seconds a turn lasts, in which one engine runs while the others wait."""
_TURNS = (250, 100, 50, 20, 10, 5)
"""Possible numbers of steps in a turn. They divide an episode's 500 steps, so that no episode ends inside a turn."""
_BOUND = "bound"
_ONE = "pick-place-v3"
"""The task of mt1."""
_MOST_IN_POOLS = 200
"""The most environments in EnvPool's pools, since each keeps a model of 20 MB."""
_PICTURE = 84
"""Pixels along a side of a picture."""
logger = logging.getLogger(__name__)
Run = Callable[[], float]
"""Takes a turn and returns its environment steps per second."""


def measure(quick: bool = False) -> dict[str, Any]:
    """Rows for one task, MT10 and MT50 with 1, 4 and 16 copies of each task; quick: only MT10 with 1 and 4 copies."""
    rows = compare(("mt10",), (1, 4), 1.0) if quick else compare(("mt1", "mt10", "mt50"), (1, 4, 16), 5.0)
    return {"bench": "envs", "machine": machine(), "rows": rows}


def compare(kinds: Sequence[str], copies: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """A row for each suite, number of copies and engine: its steps per second, and their ratio to the bound.

    ``bound`` is the physics alone, in C (`BarePhysics`): 5 ``mj_step`` and one ``mj_forward`` a step with our models,
    on as many threads as our engine has, none of which waits for another. It starts from the states in which our
    engine's turn began and repeats its commands. ``bound_full`` uses Meta-World's models, including visuals. Both need
    a C compiler.

    ``package_sync`` and ``package_async`` are Meta-World's own vector environments, in one process and with a process
    for each environment. They have one copy of each task, but sixteen for mt1; more copies hardly change their speed.

    ``pixels`` and ``package_pixels`` draw a picture of 84 × 84 pixels of every state, with one copy of each task. They
    need offscreen OpenGL. mt1 has no such rows.

    ``envpool`` has a pool for each task and steps one pool after the other; ``envpool_overlapped`` steps all at once.
    These rows need EnvPool, and are left out with more than 200 environments. The columns ``mujoco`` and ``goals`` show
    how they differ from the others: EnvPool follows metaworld 3.0.0 with a later MuJoCo of its own, and draws a new
    goal for each episode.

    The column ``peak_mb``, in the rows of our engine, is the peak memory (MB) of a process with only this engine.

    Args:
        kinds: suites among mt1, mt10, mt25 and mt50.
        copies: numbers of copies of each task.
        seconds: about how long each row is measured.
    """
    rows = []
    for kind in kinds:
        with _package_runs(kind) as package:
            for n in copies:
                rows += _rows(kind, n, seconds, package)
        rows += _pictures(kind, seconds) if kind != "mt1" else []
    return rows


def _config(kind: str) -> Config:
    return Config(kind, tasks=[_ONE] if kind == "mt1" else [])


def _rows(kind: str, copies: int, seconds: float, package: dict[str, Run]) -> list[dict[str, Any]]:
    suite = MetaWorldSuite(_config(kind))
    envs = suite.batched_envs(0, copies)
    envs.meet_goals()
    envs.reset()
    steps = next((k for k in _TURNS if k * envs.num_tasks * copies < _TURN * 20000), _TURNS[-1])
    ours = _EngineRun(envs, steps)
    bounds = {
        name: BarePhysics(envs, whole) for name, whole in ((_BOUND, False), (f"{_BOUND}_full", True)) if can_run()
    }
    few = envs.num_tasks * copies <= _MOST_IN_POOLS
    pools = EnvPools(envs.tasks if few and envpool_installed() else (), copies)
    pool_runs = _pool_runs(pools)
    try:
        bound_runs = {name: partial(bound.run, ours.commands) for name, bound in bounds.items()}
        runs = {"ours": ours, **bound_runs, **pool_runs, **package}
        speeds = _interleaved(runs, seconds, tuple(bounds.values()))
    finally:
        for part in (envs, pools, *bounds.values()):
            part.close()
    rows = []
    for name, values in speeds.items():
        row = {"suite": kind, "copies": copies, "threads": envs.threads, "engine": name}
        row["steps_per_second"] = median(values)
        row |= FACTS if name in pool_runs else {"mujoco": version("mujoco"), "goals": f"{GOALS} a task"}
        if bounds:
            row["of_bound"] = median(value / bound for value, bound in zip(values, speeds[_BOUND], strict=True))
        rows.append(row | ({"peak_mb": _peak_mb(kind, copies)} if name == "ours" else {}))
    return rows


def _pictures(kind: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one suite with pictures; none without offscreen OpenGL."""
    try:
        os.environ.setdefault("MUJOCO_GL", offscreen_backend())  # so that Meta-World also draws without a display
    except RenderingUnavailable as error:
        logger.warning("No rows with pictures: %s", error)
        return []
    drawn = {"width": _PICTURE, "height": _PICTURE}
    with contextlib.ExitStack() as stack:
        ours = _reset(stack, f"mtrl/{kind.upper()}-v3", observation="pixels", copy=False, **drawn)
        options = {"vector_strategy": "sync", "render_mode": "rgb_array", "camera_name": "corner2"}
        package = _reset(stack, f"Meta-World/{kind.upper()}", **options, **drawn)
        steps = {"pixels": ours.step, "package_pixels": lambda actions: (package.step(actions), package.render())}
        actions = itertools.cycle(_actions(package.num_envs))
        speeds = _interleaved({name: partial(_turn, step, actions) for name, step in steps.items()}, seconds, ())
        fixed = {"suite": kind, "copies": 1, "threads": ours.unwrapped.envs.threads}
    return [fixed | {"engine": name, "steps_per_second": median(values)} for name, values in speeds.items()]


def _interleaved(runs: dict[str, Run], seconds: float, bounds: Sequence[BarePhysics]) -> dict[str, list[float]]:
    """Let the runs take turns. Returns {name: its steps per second in each turn}."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in counted(range(max(1, round(seconds / _TURN))), "rounds"):
        for bound in bounds:
            bound.copy_states()
        for name, run in runs.items():
            speeds[name].append(run())
    return speeds


def _peak_mb(kind: str, copies: int) -> float:
    """The peak resident memory, in MB, of a process that steps the engine; NaN if the system is not Linux.

    `resource.getrusage` cannot measure it: on Linux, a child process starts with its parent's maximum.
    """
    if not sys.platform.startswith("linux"):
        return float("nan")
    code = (
        "import numpy as np\n"
        "from mtrl.envs.metaworld.suite import Config, MetaWorldSuite\n"
        f"envs = MetaWorldSuite(Config({kind!r}, tasks={_config(kind).tasks!r})).make_envs(0, {copies})\n"
        "envs.reset()\n"
        "for _ in range(20): envs.step(np.zeros((envs.num_tasks, envs.envs_per_task, 4), np.float32))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1024 / 1e6


def _actions(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (64, *shape, 4)).astype(np.float32)


class _EngineRun:
    def __init__(self, envs: BatchedEnvs, steps: int) -> None:
        self.envs, self.commands = envs, [np.zeros(0)] * steps
        self._actions = itertools.cycle(_actions(envs.num_tasks, envs.envs_per_task))

    def __call__(self) -> float:
        seconds, envs = 0.0, self.envs
        for i in range(len(self.commands)):
            begin = time.perf_counter()
            envs.step(next(self._actions))
            seconds += time.perf_counter() - begin
            self.commands[i] = envs.controls.copy()
        return len(self.commands) * envs.num_tasks * envs.envs_per_task / seconds


def _turn(step: Callable[[np.ndarray], Any], actions: Iterator[np.ndarray]) -> float:
    """Take steps for as long as a turn lasts, and at least one. Returns environment steps per second."""
    begin, steps, passed = time.perf_counter(), 0, 0.0
    while passed < _TURN:
        step(now := next(actions))
        steps += now.size // 4
        passed = time.perf_counter() - begin
    return steps / passed


@contextlib.contextmanager
def _package_runs(kind: str) -> Iterator[dict[str, Run]]:
    """Runs of ``gymnasium.make_vec("Meta-World/MT10", ...)`` etc. Processes fork before our engine has threads."""
    name = "custom-mt-envs" if kind == "mt1" else kind.upper()
    options: dict[str, Any] = {"envs_list": [_ONE] * 16} if kind == "mt1" else {}
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        runs = {}
        for mode in ("async", "sync"):
            envs = _reset(stack, f"Meta-World/{name}", vector_strategy=mode, **options)
            runs[f"package_{mode}"] = partial(_turn, envs.step, itertools.cycle(_actions(envs.num_envs)))
        yield runs


def _reset(stack: contextlib.ExitStack, name: str, **options: Any) -> Any:
    envs = gymnasium.make_vec(name, seed=0, **options)
    stack.enter_context(contextlib.closing(envs))
    envs.reset()
    return envs


def _pool_runs(pools: EnvPools) -> dict[str, Run]:
    actions = itertools.cycle(_actions(len(pools), pools.copies))
    steps = {"envpool": pools.step, "envpool_overlapped": pools.step_overlapped}
    return {name: partial(_turn, step, actions) for name, step in steps.items() if len(pools)}
