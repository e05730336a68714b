"""Policy reuse: an unsolved task tries the policies of solved tasks, and takes over the best of them.

Tasks often share a part, such as grasping, that one of them finds sooner than another. Exploration noise seldom finds a
grasp, but the policy of a task that has learned to grasp shows it at once. The task that takes it over then learns the
rest from its own rewards.

Behaviour from similar tasks guides exploration in Fernández & Veloso 2006 ("Probabilistic policy reuse in a
reinforcement learning agent") and in QMP (Zhang et al. 2023, arXiv 2302.00671). Both choose between policies again and
again while they collect data. Here a policy is taken over as a whole, because on-policy learners need actions of the
task's own policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.errors import UserError
from mtrl.core.subset import SomeTasks
from mtrl.core.types import BoolArray, FloatArray, TaskVectorEnv
from mtrl.training.control import ControlSuite, EpisodeStatistics
from mtrl.training.evaluation import EvaluationResult, Policy, evaluate


@dataclass
class Sources:
    """The best policy that was found for each task."""

    task: NDArray[np.int64]
    """(T,): the task whose policy it is; often the task itself."""
    success: FloatArray
    """(T,): the share of episodes that it solves."""
    returns: FloatArray
    """(T,): its mean return. Episodes of Meta-World end when they are solved."""
    own_returns: FloatArray
    """(T,): the mean return of the task's own policy."""
    steps: int
    """The environment steps of all tasks together that finding them took."""


def find_sources(
    policy: Policy, envs: TaskVectorEnv, episodes: int, borrowers: BoolArray, lenders: BoolArray
) -> Sources:
    """Play `episodes` episodes of each task with its own policy, and of some tasks also with other tasks' policies.

    A borrower whose own policy solves no episode tries the policies of all lenders whose own policies solve one. The
    best policy solves most episodes; of equal ones, it is the one whose episodes are shorter. If none solves any, it is
    the one with the largest return, if that is positive and more than twice the return of the task's own policy.

    Args:
        envs: made by `ControlSuite.make_evaluation_envs` for the same number of episodes.
        borrowers, lenders: (T,), tasks that may try policies, and tasks whose policies may be tried.
    """
    own = evaluate(policy, envs, episodes)
    rate, returns, steps = own.success_rate, own.returns.mean(1), int(own.lengths.sum())
    score = returns + np.abs(returns)
    tasks, own_returns = np.arange(envs.num_tasks), returns.copy()
    source = tasks.copy()
    trying, tried = (borrowers & (rate == 0)).nonzero()[0], (lenders & (rate > 0)).nonzero()[0]
    for turn in range(len(tried) if len(trying) else 0):
        acting = tasks.copy()
        acting[trying] = np.resize(np.roll(tried, turn), len(trying))
        result = evaluate(_acting_as(policy, acting), envs, episodes)
        found = result.success_rate, _score(result), result.returns.mean(1)
        better = (acting != tasks) & ((found[0] > rate) | ((found[0] == rate) & (found[1] > score)))
        for kept, new in zip((source, rate, score, returns), (acting, *found), strict=True):
            kept[better] = new[better]
        steps += int(result.lengths.sum())
    return Sources(source, rate, returns, own_returns, steps)


def _score(result: EvaluationResult) -> FloatArray:
    """(T,): what tells policies apart that solve the same share of episodes."""
    return np.where(result.success.any(1), -result.lengths.mean(1), result.returns.mean(1))


def _acting_as(policy: Policy, acting: NDArray[np.int64]) -> Policy:
    """The policy by which each task t acts as task acting[t] does."""
    subset = SomeTasks(torch.from_numpy(acting), torch.eye(len(acting))[acting])
    return lambda observation: policy(observation, subset)


class Reusing(Protocol):
    """What policy reuse needs of an agent."""

    announce: Callable[[str], None]
    """Called with a line for the user."""

    def check_reuse(self) -> None:
        """Raises `UserError` if a task cannot `take_over` the policy of another one."""
        ...

    def take_over(self, source: Tensor) -> None:
        """Give each task t the policy of task source[t]. source: (T,), int64."""
        ...


class PolicyReuse:
    """Lets unsolved tasks take over policies during training, and keeps a record of it."""

    def __init__(self, config: Any, agent: Reusing, suite: ControlSuite, seed: int) -> None:
        """config: that of the training, with the options `reuse_...`.

        Raises:
            UserError: the benchmark does not tell success or has too few episodes, or the agent's tasks cannot take
                over policies.
        """
        self._config, self._agent, self._tasks = config, agent, suite.spec.tasks
        wanted = "null where a benchmark does not tell success"
        check(suite.spec.tells_success, "training.reuse_every", wanted, config.reuse_every)
        agent.check_reuse()
        try:
            self._envs = suite.make_evaluation_envs(seed, config.reuse_episodes, config.protocol)
        except UserError as error:
            raise UserError(f"Trials with training.reuse_episodes={config.reuse_episodes}: {error}") from error
        self._last = 0
        self._counted = np.zeros((2, len(self._tasks)))
        """(2, T): the training episodes up to the last trial, and how many of them were solved."""
        self.env_steps = 0
        """Environment steps of all tasks together that were taken to try policies."""
        self.taken_over: list[dict[str, Any]] = []
        """For each policy that was taken over: the step, both tasks, and numbers from `Sources`."""

    def is_due(self, step: int) -> bool:
        """Whether steps since the last trial, or since the start, contain a multiple of `reuse_every`."""
        return step // self._config.reuse_every > self._last // self._config.reuse_every

    def take_over(self, policy: Policy, step: int, statistics: EpisodeStatistics) -> None:
        """Find the best policy for each unsolved task, and let it take that over.

        A task that has just taken one over is left alone at the next trial, since it needs time to learn from it.
        statistics: of all training episodes so far.
        """
        count, solved = statistics.ended_ever - self._counted
        recent = [fact["task"] for fact in self.taken_over if fact["step"] == self._last]
        self._counted, self._last = statistics.ended_ever.copy(), step
        unsolved = solved < self._config.reuse_below * count
        borrowers = unsolved & ~np.isin(self._tasks, recent)
        if not borrowers.any() or unsolved.all():
            return
        self._agent.announce(f"Policy reuse: of {len(unsolved)} tasks, {borrowers.sum()} may try policies of others.")
        found = find_sources(policy, self._envs, self._config.reuse_episodes, borrowers, ~unsolved)
        self.env_steps += found.steps
        for t in (found.task != np.arange(len(unsolved))).nonzero()[0]:
            numbers = {name: round(float(getattr(found, name)[t]), 2) for name in ("success", "returns", "own_returns")}
            fact = {"step": step, "task": self._tasks[t], "source": self._tasks[found.task[t]], **numbers}
            self.taken_over.append(fact)
            success = f"success {100 * fact['success']:.0f} %"
            self._agent.announce(f"{fact['task']} takes over the policy of {fact['source']} ({success}).")
        self._agent.take_over(torch.from_numpy(found.task))

    def facts(self) -> dict[str, Any]:
        """What a run's result tells, in types of JSON."""
        return {"env_steps": self.env_steps, "taken_over": list(self.taken_over)}

    def state_dict(self) -> dict[str, Any]:
        return self.facts() | {"last": self._last, "counted": torch.from_numpy(self._counted.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.env_steps, self.taken_over, self._last = state["env_steps"], list(state["taken_over"]), state["last"]
        self._counted = state["counted"].numpy().copy()

    def close(self) -> None:
        self._envs.close()
