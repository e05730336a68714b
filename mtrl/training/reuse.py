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

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.errors import expected
from mtrl.core.types import FloatArray, TaskVectorEnv
from mtrl.data.rollout import Rollout
from mtrl.training.control import ControlSuite
from mtrl.training.evaluation import Policy, evaluate

Indices = NDArray[np.int64]


@dataclass
class Sources:
    """The best policy that was found for each task."""

    task: Indices
    """(T,): the task whose policy it is; the task itself, if it is not unsolved or no other policy is better."""
    success: FloatArray
    """(T,): the share of episodes that it solves."""
    returns: FloatArray
    """(T,): its mean return. Episodes end when they are solved."""
    own_returns: FloatArray
    """(T,): the mean return of the task's own policy."""
    steps: int
    """The environment steps of all tasks together that finding them took."""


def find_sources(policy: Policy, envs: TaskVectorEnv, episodes: int, unsolved: Indices) -> Sources:
    """Play `episodes` episodes with each task's own policy, and those of unsolved tasks with other tasks' as well.

    Tried are the policies of tasks that are not unsolved and whose own policy solves an episode. Of two policies, the
    better one solves more episodes, or as many with a larger return. All policies play the same episodes if a reset
    begins them again.

    Args:
        envs: made by `Suite.make_evaluation_envs` for the same number of episodes.
        unsolved: the unsolved tasks.
    """
    own = evaluate(policy, envs, episodes)
    rate, returns, steps = own.success_rate, own.returns.mean(1), int(own.lengths.sum())
    solved = np.setdiff1d(rate.nonzero()[0], unsolved)
    source = np.arange(envs.num_tasks)
    for turn in range(len(solved) if len(unsolved) else 0):
        lent = np.resize(np.roll(solved, turn), len(unsolved))
        tried = evaluate(_borrowing(policy, unsolved, lent, len(solved)), envs, episodes)
        found = tried.success_rate[unsolved], tried.returns.mean(1)[unsolved]
        better = (found[0] > rate[unsolved]) | ((found[0] == rate[unsolved]) & (found[1] > returns[unsolved]))
        changed = unsolved[better]
        source[changed], rate[changed], returns[changed] = lent[better], found[0][better], found[1][better]
        steps += int(tried.lengths.sum())
    return Sources(source, rate, returns, own.returns.mean(1), steps)


def _borrowing(policy: Policy, borrowers: Indices, lenders: Indices, at_once: int) -> Policy:
    """The policy by which each borrower acts as its lender does, and every other task as itself.

    at_once: how many lenders in a row are different; one call of `policy` acts for so many borrowers.
    """
    groups = [slice(first, first + at_once) for first in range(0, len(borrowers), at_once)]

    def act(observation: FloatArray) -> FloatArray:
        action = policy(observation)
        for group in groups:
            seen = observation.copy()
            seen[lenders[group]] = observation[borrowers[group]]
            action[borrowers[group]] = policy(seen)[lenders[group]]
        return action

    return act


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
    """Lets unsolved tasks take over policies during a training, and keeps a record of it."""

    def __init__(self, config: Any, agent: Reusing, suite: ControlSuite, seed: int) -> None:
        """config: that of the training, with the options `reuse_...`.

        Raises:
            UserError: the benchmark does not tell success, or the agent's tasks cannot take over policies.
        """
        self._config, self._agent, self._suite, self._seed = config, agent, suite, seed
        if not suite.spec.tells_success:
            raise expected("training.reuse_every", "null where a benchmark does not tell success", config.reuse_every)
        agent.check_reuse()
        self._last = 0
        self._episodes = torch.zeros(2, suite.spec.num_tasks)
        """(2, T): training episodes that have ended since the last trial, and how many of them ended solved."""
        self.env_steps = 0
        """Environment steps of all tasks together that were taken to try policies."""
        self.taken_over: list[dict[str, Any]] = []
        """For each policy that was taken over: the step, both tasks, and numbers from `Sources`."""

    def is_due(self, step: int) -> bool:
        """Whether steps since the last trial, or since the start, contain a multiple of `reuse_every`."""
        return step // self._config.reuse_every > self._last // self._config.reuse_every

    def observe(self, rollout: Rollout) -> None:
        """Count the training episodes that ended in a full rollout."""
        ended = rollout.ended.flatten(1)
        self._episodes += torch.stack([ended, ended * rollout.success.flatten(1)]).sum(-1).cpu()

    def take_over(self, policy: Policy, step: int) -> None:
        """Find the best policy for each unsolved task, and let it take that over.

        A task that has just taken one over is left alone at the next trial, since it needs time to learn from it.
        """
        config, tasks, self._last = self._config, self._suite.spec.tasks, step
        count, solved = self._episodes.numpy().copy()
        self._episodes.zero_()
        recent = [fact["task"] for fact in self.taken_over if step - fact["step"] < 2 * config.reuse_every]
        unsolved = (solved < config.reuse_below * count) & ~np.isin(tasks, recent)
        if not unsolved.any():
            return
        self._agent.announce(f"Policy reuse: {unsolved.sum()} unsolved tasks try the policies of the others.")
        envs = self._suite.make_evaluation_envs(self._seed, config.reuse_episodes, config.protocol)
        with contextlib.closing(envs):
            found = find_sources(policy, envs, config.reuse_episodes, unsolved.nonzero()[0])
        self.env_steps += found.steps
        for t in (found.task != np.arange(len(tasks))).nonzero()[0]:
            numbers = {name: round(float(getattr(found, name)[t]), 2) for name in ("success", "returns", "own_returns")}
            fact = {"step": step, "task": tasks[t], "source": tasks[found.task[t]], **numbers}
            self.taken_over.append(fact)
            success = f"success {100 * fact['success']:.0f} %"
            self._agent.announce(f"{fact['task']} takes over the policy of {fact['source']} ({success}).")
        self._agent.take_over(torch.from_numpy(found.task))

    def facts(self) -> dict[str, Any]:
        """What a run's result tells, in types of JSON."""
        return {"env_steps": self.env_steps, "taken_over": list(self.taken_over)}

    def state_dict(self) -> dict[str, Any]:
        return self.facts() | {"last": self._last, "episodes": self._episodes.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.env_steps, self.taken_over, self._last = state["env_steps"], list(state["taken_over"]), state["last"]
        self._episodes.copy_(state["episodes"])
