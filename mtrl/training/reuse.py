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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray, TaskVectorEnv
from mtrl.training.evaluation import Policy, evaluate

Indices = NDArray[np.int64]


@dataclass
class Sources:
    """The best policy that was found for each task."""

    task: Indices
    """(T,): the task whose policy it is; the task itself, if that is solved or no other policy is better."""
    returns: FloatArray
    """(T,): its mean return."""
    own_returns: FloatArray
    """(T,): the mean return of the task's own policy."""
    steps: int
    """The environment steps of all tasks together that finding them took."""


def find_sources(policy: Policy, envs: TaskVectorEnv, episodes: int) -> Sources:
    """Play `episodes` episodes with each task's own policy, and those of unsolved tasks with all solved tasks' as well.

    A task is solved if its own policy solves an episode. Of two policies, the better one solves more episodes, or as
    many with a larger return. All policies play the same episodes if a reset begins them again.

    Args:
        envs: made by `Suite.make_evaluation_envs` for the same number of episodes.
    """
    own = evaluate(policy, envs, episodes)
    rate, returns, steps = own.success_rate, own.returns.mean(1), int(own.lengths.sum())
    unsolved, solved = (rate == 0).nonzero()[0], (rate > 0).nonzero()[0]
    source = np.arange(envs.num_tasks)
    for turn in range(len(solved) if len(unsolved) else 0):
        lent = np.resize(np.roll(solved, turn), len(unsolved))
        tried = evaluate(_borrowing(policy, unsolved, lent, len(solved)), envs, episodes)
        found = tried.success_rate[unsolved], tried.returns.mean(1)[unsolved]
        better = (found[0] > rate[unsolved]) | ((found[0] == rate[unsolved]) & (found[1] > returns[unsolved]))
        changed = unsolved[better]
        source[changed], rate[changed], returns[changed] = lent[better], found[0][better], found[1][better]
        steps += int(tried.lengths.sum())
    return Sources(source, returns, own.returns.mean(1), steps)


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
