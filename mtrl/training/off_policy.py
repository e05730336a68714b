"""Off-policy training: act, step the environments, store the transitions, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from mtrl.core.config import check, option
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import Metrics, StepResult, Transitions
from mtrl.data.n_step import NStepReplay
from mtrl.data.replay import ReplayBuffer
from mtrl.training.collecting import CollectorConfig
from mtrl.training.control import ControlSuite, ControlTrainer, EpisodeStatistics
from mtrl.training.trainer import TrainedAgent


@dataclass
class Config(CollectorConfig):
    """Steps are environment steps of each task; all tasks together take T times as many."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)

    kind: str = "off_policy"
    learning_starts: int = option(4000, "a positive integer")
    """Steps of uniformly random actions before the first update. With `start`, the given run's policy acts instead."""
    update_to_data: float = option(1.0, "positive")
    """Updates per step of each task."""
    buffer_size: int = option(100_000, "a positive integer")
    """Transitions kept per task."""
    deterministic: bool = False
    """Whether stepping, storing and updating strictly alternate. Otherwise a step of the environments and the updates
    due for it run at the same time, so updates draw only earlier transitions. Runs repeat bit for bit either way. With
    collector=ray it must be false, and runs do not repeat exactly."""
    collector_steps: int = option(25, "a positive integer")
    """With collector=ray: steps that a process takes with each of its copies before it gets a new policy."""
    max_staleness: int = 1000
    """With collector=ray: the most updates between sending a policy and storing its steps. The learner waits for steps
    that would otherwise come too late."""
    imitation_updates: int = option(2000, "0 or more")
    """With `start`: updates in which actor and critics imitate the given run's policy, before they learn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.collector == "ray" or self.workers == 1, "training.workers", "1 without collector=ray", self.workers)
        at_once = self.envs_per_task
        if self.collector == "ray":
            at_once = self.collector_steps * self.envs_per_task // self.workers
            check(not self.deterministic, "training.deterministic", "false with collector=ray", self.deterministic)
            check(math.isfinite(self.update_to_data), "training.update_to_data", "a finite number", self.update_to_data)
            least = self.workers * self.updates_per_call
            what = f"{least} or more, the updates for the steps that {self.workers} collectors send at once"
            check(self.max_staleness >= least, "training.max_staleness", what, self.max_staleness)
        stored = f"{at_once} or more, the transitions of each task that are stored at once"
        check(self.buffer_size >= at_once, "training.buffer_size", stored, self.buffer_size)

    @property
    def updates_per_call(self) -> int:
        """The largest number of updates that the steps of one call of a collector make due."""
        return math.ceil(self.collector_steps * self.envs_per_task // self.workers * self.update_to_data)


class Agent(TrainedAgent, Protocol):
    """What the training loop needs of an agent."""

    generator: torch.Generator
    processes: Any
    """The `Processes` that learn together."""

    def act(self, observation: Tensor, explore: bool) -> Tensor: ...
    def observe(self, transitions: Transitions) -> None: ...
    def imitate(self, batch: Transitions, action: Tensor, value: Tensor) -> None: ...
    def learn(self, draw: Callable[[], Sequence[Transitions]], count: int) -> Metrics: ...


class Guide(Protocol):
    """A policy from another run that infers its task, in N copies of T tasks' environments; see `batch.TaskGuide`."""

    code: Tensor | None
    """(T · N, Z): the codes that it has inferred; None before the first action."""

    def settle(self, context: Transitions) -> None: ...
    def act(self, observation: Tensor) -> Tensor: ...
    def value(self, observation: Tensor, action: Tensor) -> Tensor: ...


Source = Callable[[], tuple[Guide, int]]
"""Loads a guide. Returns it and the step of its run."""


class OffPolicyTrainer(ControlTrainer):
    """An agent, its environments, its replay and the state of their training.

    The environments step while the agent learns, in a thread of their own, or before it (`Config.deterministic`).
    Between two calls of `advance`, no step is under way, and actions, transitions and updates have a fixed order. So
    runs repeat bit for bit, also when they continue from a checkpoint.
    """

    measures: ClassVar[tuple[str, ...]] = ()
    """The names in `StepResult.measures` that are reported."""

    agent: Agent
    suite: ControlSuite
    _source: Source | None = None
    _loaded: Guide | None = None
    _guide_step: int = 0
    _imitated: bool = False

    def begin_from(self, source: Source) -> None:
        """Let a guide act in place of random actions and infer the tasks after each episode. The agent imitates it."""
        count = self.agent.processes.count
        check(count == 1, "start", "left out where several processes learn", f"{count} processes")
        self._source = source

    def load_guide(self) -> None:
        if self._source is not None and not self._imitated and self._loaded is None:
            self._loaded, self._guide_step = self._source()

    @property
    def _guide(self) -> Guide | None:
        """The policy that acts or will be imitated; None without `start`, and once it has been imitated."""
        self.load_guide()
        return None if self._imitated else self._loaded

    def start(self) -> Self:
        """Make new environments and an empty replay. Raises UserError if evaluations have too few goals."""
        super().start()
        self.envs = self.suite.make_envs(self.seed, self.config.envs_per_task)
        self._stepper = ThreadPoolExecutor(1, "mtrl-environments")
        return self._begin(self.envs.num_tasks)

    def _begin(self, tasks: int) -> Self:
        """Make an empty replay. tasks: the number of tasks that step at once."""
        self.replay: Any = self._make_replay(self._capacity, self.agent.device)
        self.episodes = EpisodeStatistics(tasks, self.config.envs_per_task, self.measures)
        self.seconds = {"act": 0.0, "step": 0.0, "update": 0.0}
        self._credit = 0.0
        self._imitated = False
        self._observation: Tensor | None = None
        return self

    @property
    def _capacity(self) -> int:
        return min(self.config.buffer_size, self.steps + self.config.envs_per_task)

    def empty_replay(self) -> ReplayBuffer:
        """An empty replay on the CPU, into which a `data_state` of this run can be loaded."""
        return self._make_replay(self._capacity, torch.device("cpu"))

    def _make_replay(self, capacity: int, device: torch.device) -> Any:
        spec, config = self.suite.spec, self.config
        sizes = (spec.observation_size, spec.action_size)
        learner, options = self.agent.config, dict[str, Any](device=device)
        if learner.n_step == 1:
            return ReplayBuffer(spec.num_tasks, capacity, *sizes, **options)
        options |= {"steps": learner.n_step, "discount": learner.gamma, "copies": config.envs_per_task}
        return NStepReplay(spec.num_tasks, capacity, *sizes, **options)

    @property
    def random_steps(self) -> int:
        return self.config.learning_starts

    def advance(self) -> Metrics | None:
        """One step of every copy, and the updates that are due for it."""
        if self._observation is None:
            self._observation = torch.tensor(self.envs.reset())
        with self.clock("act"):
            action = self._act(self._observation)
        if self.config.deterministic:
            with self.clock("step"):
                self._store(action, self.envs.step(action.numpy()))
            return self._learn(self.step, self.envs.envs_per_task)
        flight = self._stepper.submit(self.envs.step, action.numpy())
        try:
            metrics = self._learn(self.step + self.envs.envs_per_task, self.envs.envs_per_task)
        finally:
            with self.clock("step"):
                result = flight.result()
        self._store(action, result)
        return metrics

    def _store(self, action: Tensor, result: StepResult) -> None:
        assert self._observation is not None
        arrays = (result.reward, result.next_observation, result.terminated, result.truncated)
        reward, next_observation, terminated, truncated = (torch.from_numpy(a) for a in arrays)
        fields = (self._observation, action, reward, next_observation, terminated)
        self._keep(Transitions(*fields, truncated=truncated))
        self._observation = torch.tensor(result.observation)
        self.episodes.add(result)
        self.step += self.envs.envs_per_task
        length = self.suite.spec.horizon * self.envs.envs_per_task
        if self.step <= self.config.learning_starts and self.step % length == 0 and (guide := self._guide):
            guide.settle(self._of_copies())

    def _of_copies(self) -> Transitions:
        """The replay's transitions of each copy, (T · N, M, ..), from the first step that every copy still has."""
        copies, oldest = self.envs.envs_per_task, len(self.replay) % self.envs.envs_per_task
        whole = self.replay.ordered().map(lambda part: part[:, oldest:])
        return whole.map(lambda part: part.unflatten(1, (-1, copies)).transpose(1, 2).flatten(0, 1))

    def _act(self, observation: Tensor) -> Tensor:
        if self.step >= self.config.learning_starts:
            return self._policy(observation).cpu()
        if guide := self._guide:
            return guide.act(observation).cpu()
        device, generator = self.agent.device, self.agent.generator
        shape = (*observation.shape[:-1], self.suite.spec.action_size)
        return (torch.rand(shape, device=device, generator=generator) * 2 - 1).cpu()

    def _policy(self, observation: Tensor) -> Tensor:
        return self.agent.act(observation, explore=True)

    def _keep(self, transitions: Transitions) -> None:
        self.agent.observe(transitions)
        self.replay.add(transitions)

    def _draw(self) -> list[Transitions]:
        """The batches of one update."""
        count = 2 if self.agent.needs_second_batch else 1
        return [self.replay.sample(self.agent.config.batch_size, self.agent.generator) for _ in range(count)]

    def _learn(self, step: int, new: int) -> Metrics | None:
        """Make the updates that are due for the last `new` of `step` steps; none before `learning_starts`."""
        if step < self.config.learning_starts:
            return None
        if len(self.replay) and (guide := self._guide):
            with self.clock("update"):
                self._imitate(guide)
            self._imitated = True
        self._credit += new * self.config.update_to_data
        count = int(self._credit) if len(self.replay) else 0
        if not count:
            return None
        with self.clock("update"):
            metrics = self.agent.learn(self._draw, count)
        self._credit -= count
        self.updates += count
        return metrics

    def _imitate(self, guide: Guide) -> None:
        """Train the agent to imitate the guide.

        Critics learn the guide's values of actions, half of them from the replay and half uniformly random.
        """
        guide.settle(self._of_copies())
        config, generator = self.agent.config, self.agent.generator
        for _ in range(self.config.imitation_updates):
            batch = self.replay.sample(config.batch_size, generator)
            random = torch.rand(batch.action.shape, device=self.agent.device, generator=generator) * 2 - 1
            own = torch.rand(batch.reward.shape, device=self.agent.device, generator=generator) < 0.5
            mixed = torch.where(own.unsqueeze(-1), batch.action, random)
            self.agent.imitate(batch, mixed, guide.value(batch.observation, mixed).to(self.agent.device))

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, in types that a checkpoint can hold."""
        code: dict[str, Any] = {} if self._source is None else {"imitated": self._imitated}
        if guide := self._guide:
            code |= {"code": guide.code, "guide_step": self._guide_step}
        own = {"credit": self._credit, "envs": self.envs.state_dict(), "episodes": self.episodes.state_dict()}
        return super().state_dict() | own | code

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._credit = state["credit"]
        self._imitated = bool(state.get("imitated", self.updates > 0))  # early checkpoints do not tell
        if guide := self._guide:
            found, step = self._guide_step, state.get("guide_step", self._guide_step)
            check(found == step, "start", f"a run at step {step}, as when this run began from it", f"step {found}")
            guide.code = state["code"]
        self.episodes.load_state_dict(state["episodes"])
        self._observation = torch.tensor(self.envs.load_state_dict(state["envs"]))

    @property
    def data_bytes(self) -> int:
        return self._capacity * self._make_replay(1, torch.device("meta")).bytes

    def changed_bytes(self, steps: int) -> int:
        new = self.data_bytes * min(steps, self._capacity) // self._capacity
        return min(self.data_bytes, new + 2 * ReplayBuffer.block_bytes)

    def data_state(self) -> dict[str, Any]:
        return self.replay.state_dict()

    def load_data_state(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state)

    def close(self) -> None:
        self._stepper.shutdown()
        self.envs.close()


def build(config: Config, **parts: Any) -> OffPolicyTrainer:
    if config.collector == "ray":
        from mtrl.training.collected import CollectedTrainer  # other trainers do not need Ray

        return CollectedTrainer(config, **parts)
    return OffPolicyTrainer(config, **parts)
