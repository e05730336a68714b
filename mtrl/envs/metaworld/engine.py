"""Steps N copies of each of T Meta-World tasks on all cores, with the same results as Meta-World.

A step divides the copies into jobs, which the threads (one per core) take one by one. A job advances some copies of one
task by 5 physics steps and one ``mj_forward``, computes their observations and rewards, and decides which episodes end.
With a C compiler, jobs run in C without the global interpreter lock (`native`). Ended episodes restart in a second
round, which has one job per task.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.core.config import check, check_choice
from mtrl.core.cores import available_cores
from mtrl.core.errors import expected
from mtrl.core.limited import LimitedWarnings
from mtrl.core.types import BoolArray, FloatArray, StepResult
from mtrl.envs.metaworld.arithmetic import TaskArithmetic
from mtrl.envs.metaworld.episodes import Episodes
from mtrl.envs.metaworld.goals import GoalDraws
from mtrl.envs.metaworld.interpreted import PythonSteps
from mtrl.envs.metaworld.native import compiled_steps
from mtrl.envs.metaworld.package_envs import MAX_HORIZON
from mtrl.envs.metaworld.physics import ERROR, SOUND, UNSTABLE, TaskPhysics
from mtrl.envs.metaworld.starts import Known, Starts
from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.base import RewardVersion, TaskSpec
from mtrl.envs.metaworld.tasks.state import Outcome
from mtrl.envs.metaworld.workers import Workers, shares

logger = logging.getLogger(__name__)

INFO_TERMS = Outcome._fields[1:]
"""The names of the terms that Meta-World reports in ``info``."""
_REASONS = {SOUND: "numbers that are not finite", UNSTABLE: "unstable physics", ERROR: "an error in MuJoCo"}
_SAVED = ("observation", "next_observation", "faults", "_elapsed", "_last", "_goal", "_played", "_parked")


class BatchedEnvs:
    """N copies of each of T Meta-World tasks, stepped at once. Implements `TaskVectorEnv`.

    Trajectories are the same as those of `PackageEnvs`, for any number of threads. Observations (T, N, 39) and rewards
    (T, N) are float64; actions (T, N, 4) are used as float32. An episode ends at its horizon, optionally at or after a
    success, and if its copy fails (an error in MuJoCo, a number that is not finite, unstable physics). A failure
    truncates the episode: `next_observation` is then the last valid observation, the reward is 0, and `faults` counts
    it.

    Args:
        goals: {task: goals}, in the suite's order.
        seed: the seed of the streams from which the copies draw goals, one stream for each copy.
        envs_per_task: N.
        reward_version: v1 or v2.
        horizon: the steps after which an episode is truncated; a list is one value for each copy of a task, repeated if
            it is shorter.
        terminate_on_success: whether episodes terminate at success.
        steps_after_success: the steps for which an episode continues after its first success; by default, all that are
            left until its horizon.
        schedule: (T, E) goal indices for evaluation. Copy n plays episodes n, n + N, .... Then it is parked: it stays
            at its last observation, with zero rewards.
        threads: by default, one per core, and at most one per copy.
        known: a cache of first states, which environments with the same goals can share.
        with_info: whether steps also compute what `info` returns.
        draws: chooses the goals of episodes; by default, any of the task's goals at random.
        specs: {task: its definition}, for variants of Meta-World's tasks.

    Raises:
        UserError: the engine does not support a task, or an argument is out of range.
    """

    controls: NDArray[np.float64]
    """(T, N, CONTROLS): the commands of the last step. The array is reused."""
    faults: NDArray[np.int64]
    """(T, N): episodes that ended because the copy failed, since the copy's last `reset` or `restart`."""
    autoreset: bool = True
    """Whether an ended episode restarts in the same step. If not, the caller restarts it with `restart`."""
    before_restart: Callable[[BoolArray], Any]
    """Called in a step before ended episodes restart, with the mask (T, N) of their copies."""
    keeps_goals: bool = False
    """Whether a copy keeps its goal in the next episode, unless `restart` asks for new goals."""

    def __init__(
        self,
        goals: Mapping[str, Sequence[Task]],
        seed: int,
        envs_per_task: int,
        *,
        reward_version: str = "v2",
        horizon: int | Sequence[int] = MAX_HORIZON,
        terminate_on_success: bool = False,
        steps_after_success: int | None = None,
        schedule: NDArray[np.int64] | None = None,
        threads: int | None = None,
        known: Known | None = None,
        with_info: bool = False,
        draws: GoalDraws | None = None,
        specs: Mapping[str, TaskSpec] = TASKS,
    ) -> None:
        check(envs_per_task >= 1, "envs_per_task", "a positive integer", envs_per_task)
        self.tasks = tuple(goals)
        check_choice("benchmark.reward_version", reward_version, ("v1", "v2"))
        for task in goals:
            check(task in TASKS, "benchmark.tasks", "tasks of the batched engine (engine=package has all)", task)
        self.num_tasks, self.envs_per_task = len(goals), envs_per_task
        self._seed, self._horizon = seed, np.resize(horizon, envs_per_task)
        self._schedule, self._with_info = schedule, with_info
        self._draws = draws or GoalDraws([len(found) for found in goals.values()], envs_per_task)
        self._warn, self.before_restart = LimitedWarnings(logger), lambda ended: None
        known = {} if known is None else known
        self._starts = [Starts(specs[task], goals[task], known) for task in self.tasks]
        envs = [starts.env for starts in self._starts]
        self._episodes = Episodes(envs, envs_per_task, terminate_on_success, steps_after_success)
        self._share_arrays()
        self.threads = threads or min(available_cores(), self.num_tasks * envs_per_task)
        self._workers = Workers(self.threads)
        self._finalizers = [weakref.finalize(self, self._workers.close)]
        self._build("v1" if reward_version == "v1" else "v2")
        self._ready = self._seeded = False

    def _share_arrays(self) -> None:
        """Make the arrays of `Episodes` that are used here attributes of the engine. They are never reallocated."""
        own = self._episodes
        self.observation, self.next_observation = own.observation, own.next_observation
        self.controls, self.faults = own.controls, own.faults
        self._elapsed, self._last, self._goal, self._played = own.elapsed, own.last, own.goal, own.played
        self._parked, self._failed, self._resting = own.parked, own.failed, False
        self._planned: BoolArray | None = None
        self._step_result = StepResult(
            own.observation, own.reward, own.terminated, own.truncated, own.next_observation, own.success
        )

    def _build(self, version: RewardVersion) -> None:
        own, terms = self._episodes, len(Outcome._fields) if self._with_info else 2
        self.physics = [
            TaskPhysics(starts, self.controls[t], own.status[t], self._workers.count)
            for t, starts in enumerate(self._starts)
        ]
        self._arithmetic = [
            TaskArithmetic(s.spec, version, p.layout.columns, s.constant_shapes, p.rows, action, result, terms)
            for s, p, action, result in zip(self._starts, self.physics, own.action, own.result, strict=True)
        ]
        tasks = list(zip(self.physics, self._arithmetic, strict=True))
        compiled = compiled_steps(tasks, own, self.threads)
        self._steps = PythonSteps(tasks, own, self._workers) if compiled is None else compiled
        self._finalizers.append(weakref.finalize(self, self._steps.close))

    @property
    def terminate_on_success(self) -> bool:
        """Whether episodes terminate at success."""
        return bool(self._episodes.rules[0])

    @terminate_on_success.setter
    def terminate_on_success(self, value: bool) -> None:
        self._episodes.rules[0] = value

    def reset(self, seed: int | None = None) -> FloatArray:
        self._seed = self._seed if seed is None else seed
        self.seed(self._seed)
        self._played[...], self._parked[...], self._seeded = 0, False, True
        return self.restart(np.ones_like(self._parked))

    def seed(self, seeds: int | Sequence[int | None]) -> None:
        """Restart the streams from which goals are drawn; see `GoalDraws.seed`."""
        self._draws.seed(seeds)

    def meet_goals(self) -> None:
        """Compute the first state for every goal now. Otherwise it is computed when the goal is first drawn."""
        for starts in self._starts:
            for goal in range(len(starts.goals)):
                starts.start(goal)
        for physics in self.physics if self._seeded else ():  # whose first models have just been changed
            physics.place()

    def restart(self, which: BoolArray, *, new_goals: bool | BoolArray = False) -> FloatArray:
        """Start the next episode of the copies marked in ``which (T, N)``, and return all observations (T, N, 39).

        new_goals: which of them (T, N), or whether all, draw new goals even if `keeps_goals`.

        Raises:
            RuntimeError: the environments have not been reset, or the last step was interrupted and `which` does not
                mark all copies.
        """
        if not (self._seeded and np.all(which)):  # restarting all copies also repairs an interrupted step
            self._check_ready()
        self._ready = False
        self.faults[which] = 0
        self._begin(which, new_goals)
        self.next_observation[which] = self.observation[which]
        self._ready = True
        return self.observation

    def step(self, action: FloatArray) -> StepResult:
        """Step all copies with actions (T, N, 4) in [-1, 1].

        Raises:
            UserError: the actions have another shape.
            RuntimeError: the environments have not been reset, are closed, or are in a forked process; or a thread
                failed.
        """
        self._check_ready()
        if np.shape(action) != self._episodes.action.shape:
            raise expected("Actions", f"of shape {self._episodes.action.shape}", np.shape(action))
        self._episodes.action[...] = action
        self._ready = False
        found = self._steps.run()
        if self._resting:
            self._episodes.rest()
        if found:
            self._settle()
        self._ready = True
        return self._step_result

    def _check_ready(self) -> None:
        """Raise an error before the first reset, or after an interrupted step, which not all copies have taken."""
        if not self._ready:
            raise RuntimeError("Call `reset` or `load_state_dict` first, also after a step that raised an error.")

    def info(self) -> dict[str, FloatArray]:
        """{term: (T, N)}: what Meta-World reports about the last step, for each of `INFO_TERMS`."""
        if not self._with_info:
            raise RuntimeError("`info` needs environments that were made with `with_info=True`.")
        failed = self._failed | self._parked
        return {name: np.where(failed, 0.0, self._episodes.outcome[i + 1]) for i, name in enumerate(INFO_TERMS)}

    def _plan(self) -> None:
        """Divide the copies that are not parked into chunks.

        Large chunks keep a task's code and model in a core's cache. Small ones at the end let all threads finish at the
        same time.
        """
        self._resting = bool(self._parked.any())
        if self._planned is not None and np.array_equal(self._planned, self._parked):
            return
        self._planned = None  # an interrupted plan is made again
        found = enumerate(shares(~self._parked, self.threads))
        self._steps.plan([(t, first, last) for t, ranges in found for first, last in ranges])
        self._planned = self._parked.copy()

    def _settle(self) -> None:
        """Report failures, and restart the episodes that have ended."""
        for t, n in np.argwhere(self._failed).tolist():
            reason = _REASONS[self._episodes.status[t, n]]
            self._warn("Copy %d of %s failed, so its episode was truncated: %s", n, self.tasks[t], reason)
        ended = self._step_result.terminated | self._step_result.truncated
        if self.autoreset and ended.any():
            self.before_restart(ended)
            self._begin(ended)

    def _begin(self, ended: BoolArray, new_goals: bool | BoolArray = False) -> None:
        """Start the next episode, if there is one, for the copies marked in ``ended (T, N)``."""
        due = ended & (np.array(new_goals) | (self._played == 0) | (not self.keeps_goals))
        for t, n in np.argwhere(due).tolist():
            self._next_goal(t, n)
        self._plan()
        starting = ended & ~self._parked

        def work(t: int, _: int) -> None:
            for n in np.flatnonzero(starting[t]).tolist():
                self._start(t, n)

        self._workers.run(work, np.flatnonzero(starting.any(1)).tolist())

    def _next_goal(self, t: int, n: int) -> None:
        if self._schedule is None:
            self._goal[t, n] = self._draws.draw(t * self.envs_per_task + n)
        elif (number := n + self.envs_per_task * self._played[t, n]) < self._schedule.shape[1]:
            self._goal[t, n] = self._schedule[t, number]
        else:
            self._parked[t, n] = True
            return
        self._played[t, n] += 1

    def _start(self, t: int, n: int) -> None:
        start = self._starts[t].start(int(self._goal[t, n]))
        self.physics[t].begin(n, start)
        self._arithmetic[t].begin(n, start.constants)
        self.controls[t, n, :3] = start.mocap
        self.observation[t, n] = start.observation
        self._elapsed[t, n], self._last[t, n] = 0, self._horizon[n]

    def __reduce__(self) -> Any:
        what = "copied with `state_dict`, and `load_state_dict` of an engine made with the same arguments"
        raise TypeError(f"The engine should be {what}. Found an attempt to copy or pickle it.")

    def state_dict(self) -> dict[str, Any]:
        """The whole state except the lists of goals, which depend only on the suite's seed."""
        self._check_ready()
        return {
            "engine": "batched",
            "tasks": list(self.tasks),
            "seed": self._seed,
            "arrays": {name: torch.from_numpy(getattr(self, name).copy()) for name in _SAVED},
            "physics": [
                torch.from_numpy(np.stack([p.state(n) for n in range(self.envs_per_task)])) for p in self.physics
            ],
            "memory": [
                {name: torch.from_numpy(value.copy()) for name, value in part.memory().items()}
                for part in self._arithmetic
            ],
            "goals": self._draws.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        wanted = ("batched", list(self.tasks), len(self._draws))
        copies = len(state["goals"]["rngs"]) if "goals" in state else len(state["copies"])
        found = (state.get("engine", "package"), list(state["tasks"]), copies)
        if found != wanted:
            raise expected("Saved environments (engine, tasks, copies)", str(wanted), found)
        self._seed, self._ready, self._seeded = state["seed"], False, True
        self._draws.load_state_dict(state["goals"])
        for name, value in state["arrays"].items():
            getattr(self, name)[...] = value.cpu().numpy()
        self._plan()
        self._workers.run(lambda t, _: self._load_task(t, state), range(self.num_tasks))
        self._ready = True
        return self.observation

    def _load_task(self, t: int, state: Mapping[str, Any]) -> None:
        physics, arithmetic = self.physics[t], self._arithmetic[t]
        vectors = state["physics"][t].cpu().numpy()
        for n in range(self.envs_per_task):
            start = self._starts[t].start(int(self._goal[t, n]))
            physics.begin(n, start)
            physics.set_state(n, vectors[n])
            arithmetic.begin(n, start.constants)
            self.controls[t, n, :3] = physics.mocap(n)
        arithmetic.remember({name: value.cpu().numpy() for name, value in state["memory"][t].items()})

    def close(self) -> None:
        """End the threads. The environments cannot be used afterwards."""
        for finalizer in self._finalizers:
            finalizer()
