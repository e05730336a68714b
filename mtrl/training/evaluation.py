"""Evaluation by a fixed number of episodes per task, all of which are chosen before they start.

An episode's last step decides whether it counts as solved. Meta-World's episodes terminate on success, as in its own
`metaworld.evaluation.evaluation`. `ControlSuite.make_evaluation_envs(seed, episodes, protocol)` chooses the goals of
the episodes. The protocols differ only for Meta-World:

- ``goals`` (default): each of the benchmark's goals once; with fewer episodes than goals, the first `episodes` of an
  order shuffled by the seed.
- ``upstream``: a goal drawn with replacement for each episode, as `metaworld` does.

With N copies in parallel, counting the first episodes to finish would over-represent short ones, which are the
successful ones. So episode e is always played by copy e mod N, as its (e div N)-th episode, counted from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.cores import torch_threads
from mtrl.core.subset import TaskSubset
from mtrl.core.suite import EPISODES
from mtrl.core.types import BoolArray, FloatArray, StepResult, TaskVectorEnv

Policy = Callable[..., FloatArray]
"""Maps observations (T, N, O) to actions (T, N, A). Where tasks are goals, it also takes the `TaskSubset`."""
Progress = Callable[[int, int], None]
"""Called as an evaluation goes on, with the number of episodes or samples done and their total, over all tasks."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: values of each task, most of them means over its episodes or samples."""

    counted: Sequence[int] | None = field(default=None, kw_only=True)
    """Indexes of the tasks over which means are taken; None for all."""

    def mean(self, values: NDArray[Any]) -> float:
        """The mean of values (T,) or (T, E) over the tasks in `counted`."""
        return float((values if self.counted is None else values[list(self.counted)]).mean())

    @property
    def per_task(self) -> dict[str, FloatArray]:
        """name -> (T,), or one value for each of `names`. The first name is the most important."""
        raise NotImplementedError

    @property
    def headline(self) -> str:
        """The name of the most important value."""
        return next(iter(self.per_task))

    @property
    def chosen_by(self) -> str:
        """The name of the value by which the best of several evaluations is chosen."""
        return self.headline

    def names(self, tasks: Sequence[str]) -> Sequence[str]:
        """The names of the entries in `per_task`: the tasks, unless they are evaluated in groups."""
        return tasks

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        """As JSON: `headline`, `episodes`, `mean_<headline>`, other means, and under `tasks` each task's values."""
        raise NotImplementedError


class Actor(Protocol):
    act: Callable[..., Tensor]


def greedy(agent: Actor) -> Policy:
    """An agent's deterministic policy on arrays.

    Observations are copied into PyTorch's own memory. Some processors round products differently where an array begins
    in the middle of a cache line, as NumPy's may, so that the same policy might not play the same episode twice.
    """

    def policy(observation: FloatArray, *subset: TaskSubset) -> FloatArray:
        with torch_threads(1):
            return agent.act(torch.tensor(observation), False, *subset).cpu().numpy()

    return policy


@dataclass(frozen=True)
class EvaluationResult(Evaluation):
    """The result of E episodes of each of T tasks, in the order of the goals that the suite chose."""

    success: BoolArray
    """(T, E): whether the episode's last step solved the task."""
    returns: FloatArray
    """(T, E): undiscounted sums of rewards up to the end of the episode."""
    lengths: NDArray[np.int64]
    """(T, E): steps of the episode."""
    tells_success: bool = True
    """Whether the environments report success; if not, `success` is meaningless and left out of results."""

    @property
    def success_rate(self) -> FloatArray:
        """(T,): the share of solved episodes."""
        return self.success.mean(axis=1)

    @property
    def per_task(self) -> dict[str, FloatArray]:
        return {name: values.mean(axis=1) for name, values in self._values.items()}

    @property
    def _values(self) -> dict[str, NDArray[Any]]:
        """name -> (T, E)"""
        return ({"success": self.success} if self.tells_success else {}) | {"return": self.returns}

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        """As in `Evaluation`; each task also has lists of its episodes' values."""
        values = self._values | {"length": self.lengths}
        lists = {name if name == "success" else f"{name}s": array for name, array in values.items()}
        return {
            "headline": self.headline,
            "episodes": self.returns.shape[1],
            **{f"mean_{name}": self.mean(array) for name, array in self._values.items()},
            "tasks": {
                task: {f"mean_{name}": float(array[t].mean()) for name, array in values.items()}
                | {name: array[t].tolist() for name, array in lists.items()}
                for t, task in enumerate(tasks)
            },
        }


class _Tally:
    """Collects the episodes of every copy, up to the number assigned to it."""

    def __init__(self, num_tasks: int, copies: int, episodes: int, tells_success: bool) -> None:
        self.episodes, self.copies = episodes, copies
        self.share = np.array([len(range(n, episodes, copies)) for n in range(copies)])
        self.played = np.zeros((num_tasks, copies), np.int64)
        self.score = np.zeros((num_tasks, copies))
        self.steps = np.zeros((num_tasks, copies), np.int64)
        shape = (num_tasks, episodes)
        self.result = EvaluationResult(np.zeros(shape, bool), np.zeros(shape), np.zeros(shape, np.int64), tells_success)

    def add(self, step: StepResult) -> bool:
        """Take in one step. Returns whether it ended an episode that counts."""
        self.score += step.reward
        self.steps += 1
        ended = step.terminated | step.truncated
        task, copy = np.nonzero(ended & (self.played < self.share))
        episode = self.played[task, copy] * self.copies + copy
        self.result.success[task, episode] = step.success[task, copy]
        self.result.returns[task, episode] = self.score[task, copy]
        self.result.lengths[task, episode] = self.steps[task, copy]
        self.played[task, copy] += 1
        self.score[ended] = 0
        self.steps[ended] = 0
        return len(task) > 0


def evaluate(
    policy: Policy,
    envs: TaskVectorEnv,
    episodes: int,
    progress: Progress | None = None,
    *,
    tells_success: bool = True,
) -> EvaluationResult:
    """Play `episodes` episodes of every task with `policy`, from a reset of `envs`.

    Args:
        envs: made by `ControlSuite.make_evaluation_envs` for the same number of episodes.
        tells_success: as in `ControlSpec`.

    Raises:
        UserError: `episodes` is not positive.
    """
    check(episodes >= 1, EPISODES, "a positive integer", episodes)
    tally = _Tally(envs.num_tasks, envs.envs_per_task, episodes, tells_success)
    observation = envs.reset()
    while (tally.played < tally.share).any():
        step = envs.step(policy(observation))
        observation = step.observation
        if tally.add(step) and progress is not None:
            progress(int(tally.played.sum()), envs.num_tasks * episodes)
    return tally.result
