"""Off-policy training where tasks are goals: rollouts and updates each use a few of many goals (Mint paper, Sec. 6.3).

A rollout plays N episodes of each of T goals in parallel, all from start to horizon. An update draws T of the goals
that have data, and B transitions of each. The benchmark chooses T (`GoalSpec.goals_per_batch`). A run's steps are those
of one of the T goals, summed over its N episodes: a rollout adds N times the horizon. All environments together take T
times as many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import check, option
from mtrl.core.errors import expected
from mtrl.core.specs import GoalSpec, Spec
from mtrl.core.subset import ALL_TASKS, SomeTasks, TaskSubset
from mtrl.core.suite import EPISODES
from mtrl.core.types import FloatArray, Metrics, StepResult, TaskVectorEnv, Transitions
from mtrl.data.goal_replay import GoalReplay, HindsightReplay, Relabel
from mtrl.training import off_policy
from mtrl.training.control import ControlSuite
from mtrl.training.evaluation import Evaluation, Progress
from mtrl.training.off_policy import OffPolicyTrainer, Source

GROUPS = ("training_goals", "held_out_goals")
_SIDE_BY_SIDE = 50
"""Goals that are evaluated in parallel. The simulator needs about a megabyte for each."""


@dataclass
class Config(off_policy.Config):
    """A step is an environment step of one goal of a rollout; all environments together take T times as many."""

    specs: ClassVar[tuple[type[Spec], ...]] = (GoalSpec,)

    kind: str = "goal_conditioned"
    learning_starts: int = 450
    """Steps of uniformly random actions before the first update."""
    envs_per_task: int = 3
    """N: episodes of each goal in a rollout, played in parallel."""
    replay: str = option("uniform", ("uniform", "hindsight"))
    """How updates draw from the replay: uniform, or hindsight, which replaces each goal of a batch with probability 1/2
    by what a random one of its stored transitions achieves, if the puck has moved there."""
    buffer_size: int = 5000
    """Transitions kept per goal. With pushing's 200 goals, the default takes 200 MB."""
    evaluate_first: bool = True
    evaluation_episodes: int = 50
    """An evaluation during training plays at most so many training goals and as many held-out goals, one time each."""
    final_episodes: int = 200
    """The evaluation at the end plays at most so many training goals and as many held-out goals; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = "with a benchmark whose tasks are goals"
        check(self.collector == "local", "training.collector", f"'local' {where}", self.collector)
        check(self.protocol == "goals", "training.protocol", f"'goals' {where}", self.protocol)

    def evaluates(self, episodes: int) -> str:
        return f"at most {episodes} held-out goals, and at most {episodes}"


class GoalEnvs(TaskVectorEnv, Protocol):
    """Environments of T goals, which are chosen from many, with N copies each. All goals change at once."""

    @property
    def present(self) -> SomeTasks:
        """The goals of the episodes to which the next step belongs."""
        ...


class GoalSuite(ControlSuite, Protocol):
    """A benchmark whose tasks are goals; its `spec` is a `GoalSpec`."""

    goals: FloatArray
    """(G, C): the training goals, which are its tasks."""
    held_out: FloatArray
    """(H, C): goals that training never uses."""

    def relabeller(self) -> Relabel:
        """A function that replaces a batch's goals in hindsight, and computes the rewards for the new ones.

        Raises:
            UserError: the reward depends on more than the goal and the achieved position.
        """
        ...

    def make_goal_envs(self, goals: FloatArray) -> GoalEnvs:
        """Environments with one copy for each of the goals (n, C), in this order."""
        ...

    def subset_of(self, goals: Any) -> SomeTasks:
        """The `TaskSubset` of the goals (n, C), which tells networks the goals for which they act."""
        ...


class GoalTrainer(OffPolicyTrainer):
    """An off-policy trainer whose rollouts and updates each use T goals, chosen from many."""

    measures: ClassVar[tuple[str, ...]] = ("distance",)

    agent: Any
    suite: Any
    """A `GoalSuite`."""
    envs: Any
    replay: Any
    _acting: TaskSubset = ALL_TASKS

    def begin_from(self, source: Source) -> None:
        raise expected("Option `start`", "left out where tasks are goals", f"training={self.config.kind} with it")

    @property
    def _capacity(self) -> int:
        return self.config.buffer_size

    def changed_bytes(self, steps: int) -> int:
        """All of `data_bytes`: each checkpoint writes the whole replay, as the data of any goal may have changed."""
        return self.data_bytes

    def _make_replay(self, capacity: int, device: torch.device) -> Any:
        spec, config, n_step = self.suite.spec, self.config, self.agent.config.n_step
        check(n_step == 1, "agent.n_step", "1 where tasks are goals", n_step)
        sizes = (spec.observation_size, spec.action_size, spec.goals_per_batch, device)
        if config.replay == "hindsight":
            relabel = self.suite.relabeller()
            return HindsightReplay(spec.goals, capacity, *sizes, relabel=relabel)
        return GoalReplay(spec.goals, capacity, *sizes)

    @property
    def tasks_per_step(self) -> int:
        return self.suite.spec.goals_per_batch

    def advance(self) -> Metrics | None:
        if self._observation is None:
            self._observation = torch.tensor(self.envs.reset())
        self._acting = self.envs.present
        return super().advance()

    def _policy(self, observation: Tensor) -> Tensor:
        return self.agent.act(observation, explore=True, subset=self._acting)

    def _keep(self, transitions: Transitions) -> None:
        super()._keep(transitions._replace(subset=self._acting))

    def _draw(self) -> list[Transitions]:
        size, generator = self.agent.config.batch_size, self.agent.generator
        first = self.replay.sample(size, generator)
        return [first, self.replay.sample(size, generator, first.subset)] if self.agent.needs_second_batch else [first]

    def report(self) -> dict[str, FloatArray]:
        """name -> (): means over the episodes of all goals since the last report."""
        return {name: np.asarray(values.mean()) for name, values in super().report().items()}

    def _act_on(self, rows: FloatArray, task: int | None, goal: Any) -> FloatArray:
        if goal is None:
            return super()._act_on(rows, task, goal)
        return self.policy(rows[None], self.suite.subset_of([goal]))[0]

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> GoalEvaluation:
        """Play each of the first `episodes` training goals and held-out goals once, or all if there are fewer.

        Raises:
            UserError: `episodes` is not positive.
        """
        check(episodes >= 1, EPISODES, "a positive integer", episodes)
        chosen = {GROUPS[0]: self.suite.goals[:episodes], GROUPS[1]: self.suite.held_out[:episodes]}
        total, done = sum(len(goals) for goals in chosen.values()), 0
        groups: dict[str, dict[str, FloatArray]] = {}
        for group, goals in chosen.items():
            parts = []
            for start in range(0, len(goals), _SIDE_BY_SIDE):
                part = goals[start : start + _SIDE_BY_SIDE]
                with contextlib.closing(self.suite.make_goal_envs(part)) as envs:
                    parts.append(play(self.policy, envs, self.suite.spec.horizon))
                done += len(part)
                if progress is not None:
                    progress(done, total)
            groups[group] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return GoalEvaluation(groups)


@dataclass(frozen=True)
class GoalEvaluation(Evaluation):
    """The result of one episode of each of n training goals and m held-out goals."""

    groups: dict[str, dict[str, FloatArray]]
    """group -> name -> (n,) or (m,): success (whether the goal was reached at any step), distance (metres, at the end),
    success_at_end and return."""

    @property
    def per_task(self) -> dict[str, FloatArray]:
        """name -> (2,): means over the goals of each group."""
        names = self.groups[GROUPS[0]]
        return {name: np.array([self.groups[group][name].mean() for group in GROUPS]) for name in names}

    def names(self, tasks: Sequence[str]) -> Sequence[str]:
        return GROUPS

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        means = {
            group: {f"mean_{name}": float(found.mean()) for name, found in values.items()}
            for group, values in self.groups.items()
        }
        return {
            "headline": self.headline,
            "episodes": len(self.groups[GROUPS[0]]["success"]),
            **means[GROUPS[0]],
            "tasks": {
                group: {
                    **means[group],
                    "episodes": len(values["success"]),
                    **{name: [round(float(v), 5) for v in found] for name, found in values.items()},
                }
                for group, values in self.groups.items()
            },
        }


def play(policy: Any, envs: GoalEnvs, horizon: int) -> dict[str, FloatArray]:
    """Play one episode of each goal for `horizon` steps. Episodes go on after a success.

    Returns a group of `GoalEvaluation.groups`: name -> (n,).
    """
    observation, goals = envs.reset(), envs.present
    total, solved = np.zeros(observation.shape[:2]), np.zeros(observation.shape[:2], bool)
    step: StepResult | None = None
    for _ in range(horizon):
        step = envs.step(policy(observation, goals))
        observation = step.observation
        total += step.reward
        solved |= step.success
    assert step is not None
    found = {"success": solved, "distance": step.measures["distance"], "success_at_end": step.success, "return": total}
    return {name: np.array(value, np.float64).reshape(-1) for name, value in found.items()}


def build(config: Config, **parts: Any) -> GoalTrainer:
    return GoalTrainer(config, **parts)
