"""Offline training on data sets of transitions in Minari's format, one for each task. Evaluations use environments.

An agent that infers its task (`infers_task`) is evaluated on held-out tasks, or on all if the benchmark holds out none
(`Suite.unseen`), and is not told which of them it is in. Its policy depends on a latent code of the task. In each task,
it first plays `context_episodes` episodes. The first has a random code or random actions (`first_context`). For each
further one, a code is drawn from its posterior given the transitions so far. The episodes that count follow, with the
most likely code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import option, path_option
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import FloatArray, Metrics, TaskVectorEnv, Transitions
from mtrl.data import minari_files
from mtrl.data.replay import ReplayBuffer
from mtrl.training.control import ControlTrainer
from mtrl.training.evaluation import Evaluation, EvaluationResult, Progress
from mtrl.training.evaluation import evaluate as evaluate_policy
from mtrl.training.off_policy import Guide
from mtrl.training.trainer import TrainedAgent, TrainingConfig

_PROBES = 10
"""The number of contexts of each task with which an evaluation checks whether codes identify tasks."""


@dataclass
class Config(TrainingConfig):
    """A step is one update of all tasks."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)

    kind: str = "batch"
    data: str = path_option("datasets", changes_results=True)
    """Folder of all data sets. That of a task is `<data>/<benchmark>/<task>-v0`, as `mtrl data collect`
    writes it."""
    transitions: int | None = option(None, "a positive integer")
    """Approximate number of transitions of each task to learn from; all if not given. They are whole episodes, spread
    evenly over the data set."""
    context_episodes: int = option(2, "a positive integer")
    """Episodes from which an agent infers an unseen task."""
    first_context: str = option("code", ("code", "random"))
    """What acts in the first of the `context_episodes`: the policy with a random code (code), or uniformly random
    actions (random)."""


class InferringAgent(TrainedAgent, Protocol):
    """What the training loop needs of an agent that infers its task; see `agents.mbml.MBML`."""

    def infer(self, context: Transitions) -> Any: ...
    def act_on(self, observation: Tensor, code: Tensor) -> Tensor: ...
    def value(self, observation: Tensor, action: Tensor, code: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class UnseenResult(EvaluationResult):
    """The result of E episodes of each of the U tasks of `Suite.unseen`."""

    unseen: tuple[str, ...] = ()
    identified: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    """(U, N): whether a context's code is nearer to that of another context of its own task than to that of a context
    of any other task. Contexts are transitions of random actions."""

    @property
    def _values(self) -> dict[str, NDArray[Any]]:
        return super()._values | {"identified": self.identified}

    def mean(self, values: NDArray[Any]) -> float:
        return float(values.mean())

    def names(self, tasks: Sequence[str]) -> Sequence[str]:
        return self.unseen

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        return super().to_json(self.unseen)


class BatchTrainer(ControlTrainer):
    """An agent, its data sets and the state of its training."""

    unit = "iterations"

    agent: Any
    """`BCQ`, or an `InferringAgent`."""

    def start(self) -> Self:
        """Read the data sets.

        Raises:
            UserError: one is missing or does not fit the benchmark, or evaluations have too few goals.
        """
        super().start()
        spec, config = self.suite.spec, self.config
        sizes = (spec.observation_size, spec.action_size)
        found = minari_files.read(config.data, self.suite.name, spec.tasks, sizes, config.transitions)
        self._returns = np.array([data.mean_return for data in found])
        rings = [data.transitions for data in found]
        least, most = (bound(ring.reward.shape[1] for ring in rings) for bound in (min, max))
        self.replay = ReplayBuffer(spec.num_tasks, most, *sizes, device=self.agent.device)
        self.replay.fill(rings)
        self.agent.observe(self.replay.ordered().map(lambda part: part[:, :least]))
        self.seconds = {"update": 0.0}
        return self

    def _draw(self) -> list[Transitions]:
        """The batches of one update."""
        count = 2 if self.agent.needs_second_batch else 1
        return [self.replay.sample(self.agent.config.rows, self.agent.generator) for _ in range(count)]

    def advance(self) -> Metrics:
        """Make one update of all tasks."""
        with self.clock("update"):
            metrics = self.agent.learn(self._draw, 1)
        self.step += 1
        self.updates += 1
        return metrics

    def report(self) -> dict[str, FloatArray]:
        """{"return": (T,)}: the mean return of the episodes read from each data set, which the policy should exceed."""
        return {"return": self._returns}

    def largest_data(self) -> dict[str, FloatArray]:
        return {}  # data sets are checked when they are read

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Evaluation:
        if not self.agent.infers_task:
            return super().evaluate(episodes, protocol, progress)
        suite = self.suite.unseen
        with contextlib.closing(suite.make_evaluation_envs(self.seed, episodes, protocol)) as envs:
            with contextlib.closing(suite.make_envs(self.seed, envs.envs_per_task)) as exploring:
                guide = self._inferred(exploring, suite.spec.horizon)
            with contextlib.closing(suite.make_envs(self.seed, _PROBES)) as probing:
                identified = self._identified(probing, self.config.context_episodes * suite.spec.horizon)
            policy = lambda observation: guide.act(torch.tensor(observation)).cpu().numpy()  # noqa: E731
            told = suite.spec.tells_success
            result = evaluate_policy(policy, envs, episodes, progress, tells_success=told)
        values = {name: getattr(result, name) for name in ("success", "returns", "lengths")}
        return UnseenResult(**values, tells_success=told, unseen=suite.tasks, identified=identified)

    def guide(self) -> Guide:
        return TaskGuide(self.agent) if self.agent.infers_task else super().guide()

    def _inferred(self, envs: TaskVectorEnv, horizon: int) -> TaskGuide:
        """A guide whose codes are inferred from `context_episodes` episodes in each copy of `envs`."""
        generator = torch.Generator().manual_seed(self.seed)
        guide = TaskGuide(self.agent, generator)
        observation, seen = envs.reset(), list[Transitions]()
        shape, random = (*observation.shape[:2], self.suite.spec.action_size), self.config.first_context == "random"
        for episode in range(self.config.context_episodes):
            if seen:
                guide.settle(_per_copy(seen), likeliest=False)
            for _ in range(horizon):
                if random and episode == 0:
                    action = torch.rand(shape, generator=generator) * 2 - 1
                else:
                    action = guide.act(torch.tensor(observation)).cpu()
                observation = _store(seen, envs, observation, action)
        guide.settle(_per_copy(seen))
        return guide

    def _identified(self, envs: TaskVectorEnv, horizon: int) -> NDArray[np.bool_]:
        """`UnseenResult.identified` (U, N): each copy's code is compared with the next copy's code of every task.

        A context is `horizon` random actions, which are the same in all tasks.
        """
        generator = torch.Generator().manual_seed(self.seed)
        observation, seen = envs.reset(), list[Transitions]()
        tasks, copies = observation.shape[:2]
        for _ in range(horizon):
            action = torch.rand(copies, self.suite.spec.action_size, generator=generator) * 2 - 1
            observation = _store(seen, envs, observation, action.expand(tasks, -1, -1))
        found = self.agent.infer(_per_copy(seen))
        mean, variance = (x.cpu().double().unflatten(0, (tasks, copies)) for x in found)
        others = [x.roll(-1, 1) for x in (mean, variance)]
        apart = (mean.unsqueeze(1) - others[0]).square() / (variance.unsqueeze(1) + others[1] + 1e-12)
        return (apart.sum(-1).argmin(1) == torch.arange(tasks).unsqueeze(-1)).numpy()


class TaskGuide:
    """A policy that infers its tasks, with one code for each of N copies of the environments of U tasks.

    generator: draws the codes; seeded with 0 if not given.
    """

    def __init__(self, agent: InferringAgent, generator: torch.Generator | None = None) -> None:
        self.agent, self._generator = agent, generator or torch.Generator().manual_seed(0)
        self.code: Tensor | None = None
        """(U · N, Z). If it is still None at the first action, it is drawn from the prior."""

    def settle(self, context: Transitions, likeliest: bool = True) -> None:
        """Infer the codes from transitions (U · N, M, ..): the most likely ones, or draws from their posterior."""
        mean, variance = self.agent.infer(context)
        self.code = mean if likeliest else mean + variance.sqrt() * self._noise(len(mean)).to(mean)

    def act(self, observation: Tensor) -> Tensor:
        """Observations (U, N, O) -> actions (U, N, A)."""
        rows = observation.flatten(0, 1).unsqueeze(1)
        code = self._noise(len(rows)).to(self.agent.device) if self.code is None else self.code
        self.code = code if self.agent.config.inference else torch.zeros_like(code)
        return self.agent.act_on(rows, self.code).unflatten(0, observation.shape[:2]).squeeze(2)

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q (U, B) of observations (U, B, O) and actions (U, B, A), given the mean code of each task's copies.

        It is of rewards that are not scaled.
        """
        assert self.code is not None
        code = self.code.unflatten(0, (len(observation), -1)).mean(1)
        return self.agent.value(observation, action, code) / self.agent.config.reward_scale

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.agent.config.code_size, generator=self._generator)


def _store(seen: list[Transitions], envs: TaskVectorEnv, observation: FloatArray, action: Tensor) -> FloatArray:
    """Take a step, append it to `seen`, and return the observations (U, N, O) to act on next."""
    before = torch.tensor(observation)
    step = envs.step(action.numpy())
    after, reward, over = (torch.tensor(x) for x in (step.next_observation, step.reward, step.terminated))
    seen.append(Transitions(before, action, reward, after, over))
    return step.observation


def _per_copy(seen: Sequence[Transitions]) -> Transitions:
    """Join steps (U, N, ..) into one batch (U · N, steps, ..): a sequence of transitions for each copy."""
    columns = zip(*(step[:5] for step in seen), strict=True)
    observation, action, reward, after, over = (torch.stack(column, 2).flatten(0, 1) for column in columns)
    return Transitions(observation, action, reward, after, over)


def build(config: Config, **parts: Any) -> BatchTrainer:
    return BatchTrainer(config, **parts)
