"""What training loops with environments have in common: evaluation by episodes, the policy and training statistics."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec, GoalSpec
from mtrl.core.types import FloatArray, StepResult, TaskVectorEnv
from mtrl.training.evaluation import Evaluation, Policy, Progress, greedy
from mtrl.training.evaluation import evaluate as evaluate_policy
from mtrl.training.trainer import Trainer

_LARGEST = float(np.sqrt(np.finfo(np.float32).max))
"""The largest number that learners can use: in single precision, the squares of larger ones are infinite."""


class ControlSuite(Protocol):
    """What the training loop needs of a benchmark."""

    spec: ControlSpec

    def make_envs(self, seed: int, envs_per_task: int) -> TaskVectorEnv:
        """Environments for training. Starts, and goals where a task has several, are random in each episode."""
        ...

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> TaskVectorEnv:
        """Environments for evaluation. Meta-World's terminate on success. `protocol`: see `training.evaluation`."""
        ...


class PartialSuite(ControlSuite, Protocol):
    """What a training loop needs of a benchmark whose environments it divides into parts."""

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> TaskVectorEnv:
        """Environments for training.

        copies: which of a task's `envs_per_task` copies to make; all if not given. Each copy behaves as it does among
        all of them.
        """
        ...


def make_part(suite: ControlSuite, seed: int, envs_per_task: int, copies: range) -> TaskVectorEnv:
    """These copies of each task's training environments. If they are all, any `ControlSuite` can make them."""
    if len(copies) == envs_per_task:
        return suite.make_envs(seed, envs_per_task)
    return cast("PartialSuite", suite).make_envs(seed, envs_per_task, copies)


def check_parts(suite: ControlSuite, workers: int) -> None:
    """Raise UserError if environments are to be divided, and the benchmark cannot."""
    divisible = "copies" in inspect.signature(suite.make_envs).parameters
    check(
        workers == 1 or divisible, "training.workers", "1 with a benchmark whose `make_envs` has no `copies`", workers
    )


class EpisodeStatistics:
    """Returns and successes of the training episodes that ended since the last report.

    An episode counts as a success if the task was solved at any of its steps, since training episodes may go on after a
    success.
    """

    def __init__(self, num_tasks: int, envs_per_task: int, measures: Sequence[str] = ()) -> None:
        """measures: names in `StepResult.measures` to report as well, with their values at the end of an episode."""
        self._measures = measures
        self._returns = np.zeros((num_tasks, envs_per_task))
        self._solved = np.zeros((num_tasks, envs_per_task), bool)
        self._ended = np.zeros((3 + len(measures), num_tasks))  # episodes, successes, returns, measures
        self.ended_ever = np.zeros((2, num_tasks))
        """(2, T): the episodes that have ended since the start, and how many of them were successes."""
        self._extremes = np.zeros((2, 2, num_tasks, envs_per_task))  # (minimum, maximum) of (observations, rewards)
        self._found = np.zeros((num_tasks, envs_per_task))

    def add(self, step: StepResult, copies: slice = slice(None)) -> None:
        """Take in one step. copies: the copies of each task that took it."""
        self._add_extremes(step, copies)
        returns, solved = self._returns[:, copies], self._solved[:, copies]
        returns += step.reward
        solved |= step.success
        over = step.terminated | step.truncated
        if over.any():
            measured = [(step.measures[name] * over).sum(1) for name in self._measures]
            ended = over.sum(1), (solved & over).sum(1)
            self.ended_ever += ended
            self._ended += [*ended, (returns * over).sum(1), *measured]
            returns[over] = 0
            solved[over] = False

    def _add_extremes(self, step: StepResult, copies: slice) -> None:
        """Update the extremes, unless they already have a number that is too large.

        Such a number soon spreads to all tasks, and then it could no longer be told from which task it came.
        """
        if not -_LARGEST < self._extremes.min() <= self._extremes.max() < _LARGEST:
            return
        found = self._found[:, copies]
        for part, widen in zip(self._extremes[..., copies], (np.minimum, np.maximum), strict=True):
            for observation in (step.observation, step.next_observation):
                rows = observation.reshape(*found.shape, -1)
                widen(part[0], widen.reduce(rows, -1, out=found, dtype=np.float64), out=part[0])
            widen(part[1], step.reward, out=part[1])

    def report(self) -> dict[str, FloatArray]:
        """name -> (T,): means of success, return and measures over the episodes that ended since the last report.

        A task without such episodes has NaN.
        """
        count = np.where(self._ended[0] > 0, self._ended[0], np.nan)
        names = ("success", "return", *self._measures)
        result: dict[str, FloatArray] = dict(zip(names, self._ended[1:] / count, strict=True))
        self._ended[:] = 0
        return result

    def largest(self) -> dict[str, FloatArray]:
        """name -> (T,): the largest absolute observations and rewards.

        A number that is too large to learn from counts as infinite. NaN stays NaN.
        """
        found = np.abs(self._extremes).max((0, -1))
        return dict(zip(("observations", "rewards"), np.where(found >= _LARGEST, np.inf, found), strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        return {k: torch.from_numpy(v.copy()) for k, v in vars(self).items() if isinstance(v, np.ndarray)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.numpy().copy())


class ControlTrainer(Trainer):
    """A trainer of an agent that acts in environments."""

    episodes: EpisodeStatistics

    def __init__(self, config: Any, *, agent: Any, suite: Any, seed: int, steps: int) -> None:
        super().__init__(config, agent=agent, suite=suite, seed=seed, steps=steps)
        self.headline = "success" if suite.spec.tells_success else "return"

    def start(self) -> Self:
        """Check, before anything is made, that the benchmark has enough goals for the run's evaluations.

        Raises:
            UserError: with protocol=goals, an evaluation has more episodes than goals.
        """
        config, goals = self.config, getattr(self.suite.config, "num_goals", None)
        if goals is None or config.protocol != "goals" or isinstance(self.suite.spec, GoalSpec):
            return self
        limit = f"at most {goals} (protocol goals: each of benchmark.num_goals once)"
        for name in ("final_episodes", *(["evaluation_episodes"] if config.evaluate_every else [])):
            check(getattr(config, name) <= goals, f"training.{name}", limit, getattr(config, name))
        return self

    def report(self) -> dict[str, FloatArray]:
        found = self.episodes.report()
        return {name: found[name] for name in found if name != "success" or self.suite.spec.tells_success}

    def largest_data(self) -> dict[str, FloatArray]:
        return self.episodes.largest()

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Add the seconds in the block to `seconds[name]`.

        Of a step that runs during an update, only the time spent waiting for it counts.
        """
        begin = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begin

    @property
    def policy(self) -> Policy:
        """Observations (T, N, O) -> actions (T, N, A)."""
        return greedy(self.agent)

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> FloatArray:
        """Observation (O,) or (B, O) -> action (A,) or (B, A) in [-1, 1]. Raises UserError if the size is wrong."""
        rows, size = np.atleast_2d(np.asarray(observation, np.float32)), self.suite.spec.observation_size
        if rows.ndim != 2 or rows.shape[1] != size:
            raise expected("Observation", f"of size {size}", tuple(np.shape(observation)))
        action = self._act_on(rows, task, goal)
        return action if np.ndim(observation) == 2 else action[0]

    def _act_on(self, rows: FloatArray, task: int | None, goal: Any) -> FloatArray:
        every = np.zeros((self.suite.spec.num_tasks, *rows.shape), np.float32)
        every[task] = rows
        return self.policy(every)[task]

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Evaluation:
        """Play `episodes` episodes of every task with the deterministic policy. Arguments: as in `Trainer`."""
        with contextlib.closing(self.suite.make_evaluation_envs(self.seed, episodes, protocol)) as envs:
            told = self.suite.spec.tells_success
            return evaluate_policy(self.policy, envs, episodes, progress, tells_success=told)
