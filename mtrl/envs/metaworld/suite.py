"""Meta-World as a suite: MT1, MT10, MT25, MT50 or your own list of tasks, with the goals of Meta-World's benchmarks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import metaworld
import metaworld.env_dict as env_dict
import numpy as np
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.core.config import check, check_choice, option
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.suite import EPISODES, ChosenTasks, Suite
from mtrl.core.types import FloatArray, TaskVectorEnv
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.goals import GoalDraws
from mtrl.envs.metaworld.models import make_physics_env
from mtrl.envs.metaworld.package_envs import MAX_HORIZON, PackageEnvs
from mtrl.envs.metaworld.rendering import rollout_video
from mtrl.envs.metaworld.starts import Known

BENCHMARKS = {"mt10": env_dict.MT10_V3, "mt25": env_dict.MT25_V3, "mt50": env_dict.MT50_V3}
GOALS = 50
"""Goals per task of every Meta-World benchmark."""
_EVALUATION_COPIES = 8
"""Episodes of a task that the batched engine evaluates side by side."""


@dataclass
class Config(ChosenTasks):
    """Options of a Meta-World benchmark."""

    spec_type: ClassVar[type[Spec]] = ControlSpec

    tasks: list[str] = field(default_factory=list, kw_only=True)
    """The task of mt1, the tasks of custom, or some of the tasks of mt10, mt25 and mt50, in this order."""
    kind: str = option("mt10", ("mt1", *BENCHMARKS, "custom"))
    """mt1, mt10, mt25, mt50, or custom."""
    reward_version: str = option("v2", ("v1", "v2"))
    """Version of the rewards: v1 or v2. Results with different versions cannot be compared."""
    horizon: int = option(500, f"in 1..{MAX_HORIZON}")
    """Steps after which an episode is truncated; Meta-World allows at most 500."""
    training_horizons: list[int] = field(default_factory=list)
    """Horizons of training episodes, assigned to a task's environments in turn; if empty, all have `horizon`. Those
    beyond the number of environments are not used. Short episodes show more start states, long ones later states."""
    steps_after_success: int | None = option(None, "0 or more")
    """Steps for which a training episode continues after its first success; by default, until its horizon."""
    num_goals: int = option(GOALS, f"in 1..{GOALS}")
    """Goals per task: the first of the benchmark's 50."""
    engine: str = option("batched", ("batched", "package"))
    """batched: step all environments at once on all cores; package: step Meta-World's own environments one by one."""
    terminate_on_success: bool = False
    """Whether training episodes terminate at success. Evaluation episodes always do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = all(1 <= steps <= MAX_HORIZON for steps in self.training_horizons)
        check(whole, "benchmark.training_horizons", f"in 1..{MAX_HORIZON}", self.training_horizons)
        self.check_tasks(BENCHMARKS.get(self.kind, BENCHMARKS["mt50"]))
        check(self.kind != "mt1" or len(self.tasks) == 1, "benchmark.tasks", "one task for mt1", self.tasks)
        check(self.kind != "custom" or bool(self.tasks), "benchmark.tasks", "a list of tasks", self.tasks)

    @property
    def name(self) -> str:
        """The kind and, if tasks were chosen, the single task or a hash of several."""
        if not self.tasks:
            return self.kind
        several = hashlib.sha256(",".join(self.tasks).encode()).hexdigest()[:8]
        return f"{self.kind}-{self.tasks[0] if len(self.tasks) == 1 else several}"


class MetaWorldSuite(Suite[Config, ControlSpec]):
    """The Meta-World tasks that the options name.

    Observations are float64 (39: the current frame 18, the previous one 18, the goal 3); actions (4) are used as
    float32.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = ControlSpec(tuple(config.tasks or BENCHMARKS[config.kind]), 39, 4, config.horizon)
        self._known: Known = {}

    def goals(self, seed: int) -> dict[str, list[Task]]:
        """{task: its first `num_goals` goals}, exactly those that Meta-World makes from this seed.

        mt10, mt25, mt50, or some of their tasks: the goals of `metaworld.MT10(seed)` and the like, which draw all
        tasks' goals from one stream. mt1: the goals of `metaworld.MT1(task, seed)`. In mt10, only reach-v3 has the
        same ones. custom: task i has the goals of `metaworld.MT1(task, seed + i)`, as in Gymnasium's
        `Meta-World/custom-mt-envs` if the seed is not 0.
        """
        whole = BENCHMARKS.get(self.config.kind)
        found = draw_goals(tuple(self.tasks if whole is None else whole), seed, whole is not None)
        return {task: found[task][: self.config.num_goals] for task in self.tasks}

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> TaskVectorEnv:
        rules = self._rules(None)
        if self.config.engine == "package":
            return PackageEnvs(self.goals(seed), seed, envs_per_task, copies=copies, **rules)
        if copies is None:
            return self.batched_envs(seed, envs_per_task)
        draws = GoalDraws([self.config.num_goals] * len(self.tasks), envs_per_task, here=copies)
        horizon = [rules["horizon"][n % len(rules["horizon"])] for n in copies]
        return self.batched_envs(seed, len(copies), draws=draws, horizon=horizon)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str = "goals") -> TaskVectorEnv:
        """Environments that terminate on success, and play `episodes` episodes of each task and then no more.

        The goals are those of `goals(seed)`, so `seed` should be the seed of training. `evaluation_order` chooses the
        goals of the episodes.

        Raises:
            UserError: an unknown protocol, or more episodes than goals where each goal is used once.
        """
        order = evaluation_order(seed, len(self.tasks), self.config.num_goals, episodes, protocol)
        if self.config.engine == "batched":
            return self.batched_envs(seed, min(episodes, _EVALUATION_COPIES), order)
        return self.scheduled_envs(seed, order, self.tasks)

    def batched_envs(
        self, seed: int, envs_per_task: int, order: NDArray[np.int64] | None = None, **options: Any
    ) -> BatchedEnvs:
        """The batched engine, with `options` for `BatchedEnvs`.

        order: (T, E), the goal indices of evaluation episodes, which terminate on success; by default, the engine is
        for training.
        """
        rules = self._rules(order) | options
        return BatchedEnvs(self.goals(seed), seed, envs_per_task, known=self._known, **rules)

    def scheduled_envs(self, seed: int, order: NDArray[np.int64], tasks: Sequence[str]) -> PackageEnvs:
        """One copy of each of `tasks`, whose episodes terminate on success.

        order: (len(tasks), E), the indices of the episodes' goals.
        """
        goals = self.goals(seed)
        return PackageEnvs({task: goals[task] for task in tasks}, seed, 1, **self._rules(order))

    def _rules(self, order: NDArray[np.int64] | None) -> dict[str, Any]:
        """The options for rewards and ends of episodes, in evaluation (if there is an order of goals) or training."""
        config = self.config
        rules: dict[str, Any] = {"reward_version": config.reward_version}
        if order is not None:
            return rules | {"schedule": order, "horizon": config.horizon, "terminate_on_success": True}
        rules |= {"steps_after_success": config.steps_after_success}
        horizons = config.training_horizons or [config.horizon]
        return rules | {"horizon": horizons, "terminate_on_success": config.terminate_on_success}

    def first_episodes(self, seed: int, tasks: Sequence[str]) -> PackageEnvs:
        """Environments that play the first episode of each of `tasks` in an evaluation with this seed."""
        check(set(tasks) <= set(self.tasks), "tasks", f"among {', '.join(self.tasks)}", list(tasks))
        order = evaluation_order(seed, len(self.tasks), self.config.num_goals, 1)
        return self.scheduled_envs(seed, order[[list(self.tasks).index(task) for task in tasks]], tasks)

    def film(self, policy: Callable[[FloatArray], FloatArray], path: Path, seed: int) -> None:
        """Write a video of one episode of each task, or of the first ten tasks if there are more."""
        envs = self.first_episodes(seed, self.tasks[:10])
        rollout_video(policy, envs, path, tasks=self.tasks, size=160)

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "reward_version": self.config.reward_version,
            "horizon": self.config.horizon,
            "training_horizons": self.config.training_horizons or [self.config.horizon],
            "steps_after_success": self.config.steps_after_success,
            "num_goals": self.config.num_goals,
            "goals": "from the seed, as metaworld makes them; at random at each training episode",
            "terminate_on_success": self.config.terminate_on_success,
            "terminate_on_success_in_evaluation": True,
            "partially_observable": False,
            "engine": self.config.engine,
            "versions": {name: version(name) for name in ("metaworld", "mujoco", "gymnasium")},
        }


def evaluation_order(
    seed: int, num_tasks: int, num_goals: int, episodes: int, protocol: str = "goals"
) -> NDArray[np.int64]:
    """The goal index of each evaluation episode, (T, E), for the protocols of `mtrl.training.evaluation`.

    With the protocol goals, each task's goals are shuffled by the seed, and the first E are used. With upstream, goals
    are drawn with replacement.

    Raises:
        UserError: an unknown protocol, no episodes, or more episodes than goals where each goal is used once.
    """
    check_choice("evaluation.protocol", protocol, ("goals", "upstream"))
    check(episodes >= 1, EPISODES, "a positive integer", episodes)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(num_tasks)]
    if protocol == "upstream":
        return np.stack([stream.integers(num_goals, size=episodes) for stream in streams])
    limit = f"in 1..{num_goals} (protocol goals: each goal once)"
    check(episodes <= num_goals, EPISODES, limit, episodes)
    return np.stack([stream.permutation(num_goals)[:episodes] for stream in streams])


@functools.lru_cache(maxsize=8)
def draw_goals(tasks: tuple[str, ...], seed: int, one_stream: bool) -> dict[str, list[Task]]:
    """All 50 goals of each task, from one random stream, or from one stream for each task i, seeded with `seed + i`.

    Raises:
        UserError: the seed is negative or too large.
    """
    largest = 2**32 - (1 if one_stream else len(tasks))
    check(0 <= seed <= largest, "seed", f"in 0..{largest} for Meta-World, whose goals come from it", seed)
    stream = np.random.RandomState(seed)
    streams = [stream if one_stream else np.random.RandomState(seed + i) for i in range(len(tasks))]
    return {task: _draw_goals(task, own) for task, own in zip(tasks, streams, strict=True)}


def _draw_goals(task: str, stream: np.random.RandomState) -> list[Task]:
    """Do what Meta-World's `_make_tasks` does for one task, in a tenth of the time and without global random state.

    Meta-World resets an environment 50 times, and each reset moves the hand for 100 steps. The draws do not depend on
    where the hand ends up (a test compares all of them), so one step is enough.
    """
    env = make_physics_env(task, "v2")
    env._set_task_called, env._freeze_rand_vec = True, False
    env.seeded_rand_vec, env.np_random = True, stream
    env._reset_hand = functools.partial(env._reset_hand, steps=1)
    goals = []
    for _ in range(GOALS):
        env.reset()
        data = {"rand_vec": env._last_rand_vec, "env_cls": BENCHMARKS["mt50"][task], "partially_observable": False}
        goals.append(metaworld._encode_task(task, data))
    env.close()
    return goals
