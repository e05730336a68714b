"""On-policy training: collect a rollout with the current policy, learn from it, and discard it.

Actions are computed on one core. Environments on the batched engine and the learner's updates use all cores. No step
is taken with an outdated policy. With `training.collector=ray`, processes of a Ray cluster collect the rollout, and the
results stay the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import check, runtime_option
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import Metrics
from mtrl.data.rollout import Rollout
from mtrl.training.collecting import Actor, Collector, CollectorConfig, LocalCollector
from mtrl.training.control import ControlTrainer, EpisodeStatistics, PartialSuite
from mtrl.training.reuse import find_sources


@dataclass
class Config(CollectorConfig):
    """Steps are environment steps of each task; all tasks together take T times as many."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)

    kind: str = "on_policy"
    envs_per_task: int = 8
    """N: copies of each task's environment, which step in parallel."""
    rollout_steps: int = 500
    """R: steps of each copy in a rollout, after which the policy is updated."""
    collector: str = runtime_option("local")
    """Where rollouts are collected: in this process (local), or in processes on the machines of a Ray cluster (ray)."""

    reuse_every: int | None = None
    """Steps after which unsolved tasks try the policies of solved tasks, and take over the best one (see
    `training.reuse`); null for never."""
    reuse_episodes: int = 2
    """Episodes that each policy plays when it is tried. A task is unsolved if its own policy solves none of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_steps", "reuse_every", "reuse_episodes"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"training.{name}", "a positive integer", value)


class Agent(Actor, Protocol):
    """What the training loop needs of an agent."""

    def learn(self, rollout: Rollout, progress: float) -> tuple[Metrics, int]:
        """Learn from a full rollout. Returns metrics and the number of the actor's optimiser steps.

        progress: the share of the run's steps taken so far, in [0, 1], for schedules.
        """
        ...

    announce: Callable[[str], None]
    """Called with a line for the user."""

    def check_reuse(self) -> None:
        """Raises `UserError` if a task cannot `take_over` the policy of another one."""
        ...

    def take_over(self, source: Tensor) -> None:
        """Give each task t the policy of task source[t]. source: (T,), int64."""
        ...


class OnPolicyTrainer(ControlTrainer):
    """An agent, its environments and the current rollout.

    A run continues from a checkpoint bit for bit, even in the middle of a rollout.
    """

    agent: Agent
    suite: PartialSuite
    collector: Collector
    rollout: Rollout

    def start(self) -> Self:
        """Make new environments and an empty rollout.

        Raises:
            UserError: with collector=ray, Ray or the cluster is missing, or the cluster has too few cores.
        """
        spec, config = self.suite.spec, self.config
        if config.reuse_every is not None:
            self.agent.check_reuse()
            if not spec.tells_success:
                what = f"null for benchmark={self.suite.name}, which does not tell success"
                raise expected("training.reuse_every", what, config.reuse_every)
        self.collector = self._collector()
        shape = (spec.num_tasks, config.rollout_steps, config.envs_per_task)
        self.rollout = Rollout(*shape, spec.observation_size, spec.action_size, self.agent.device)
        self.episodes = EpisodeStatistics(spec.num_tasks, config.envs_per_task)
        self.seconds = {"act": 0.0, "step": 0.0, "update": 0.0}
        if config.reuse_every is not None:
            self.seconds["reuse"] = 0.0
        self.reuse_steps = 0
        """Environment steps of all tasks together that were taken to try policies."""
        self.reused: list[dict[str, Any]] = []
        """For each policy that was taken over: the step, both tasks, and the mean returns before and after."""
        return self

    def _collector(self) -> Collector:
        config = self.config
        if config.collector == "ray":
            from mtrl.training.ray_collector import RayCollector  # other runs do not need Ray

            assert self.rebuild is not None, "an experiment sets `rebuild`"
            shape = (self.suite.spec.num_tasks, config.envs_per_task)
            return RayCollector(config, self.agent, self.rebuild, shape, self.seed, self.clock)
        envs = [self.suite.make_envs(self.seed, config.envs_per_task, part) for part in config.parts]
        return LocalCollector(self.agent, envs, self.clock)

    def advance(self) -> Metrics | None:
        """Take the collector's next steps, and learn if they complete a rollout."""
        for observation, action, result in self.collector.collect(self.rollout.steps - self.rollout.filled):
            self.rollout.add(observation, action, result)
            self.episodes.add(result)
            self.step += self.config.envs_per_task
        if not self.rollout.is_full:
            return None
        with self.clock("update"):
            metrics, updates = self.agent.learn(self.rollout, self.step / self.steps)
        self.updates += updates
        self.rollout.clear()
        every, before = self.config.reuse_every, self.step - self.config.rollout_steps * self.config.envs_per_task
        if every is not None and self.step // every > before // every and self.step < self.steps:
            with self.clock("reuse"):
                self._reuse()
        return metrics

    def _reuse(self) -> None:
        """Let unsolved tasks take over the policies of others."""
        config, names = self.config, self.suite.spec.tasks
        envs = self.suite.make_evaluation_envs(self.seed, config.reuse_episodes, config.protocol)
        with contextlib.closing(envs):
            found = find_sources(self.policy, envs, config.reuse_episodes)
        self.reuse_steps += found.steps
        for t in (found.task != np.arange(len(names))).nonzero()[0]:
            source, returns = names[found.task[t]], [round(float(x[t]), 1) for x in (found.own_returns, found.returns)]
            self.reused.append({"step": self.step, "task": names[t], "source": source, "returns": returns})
            self.agent.announce(f"{names[t]} takes over the policy of {source}: return {returns[1]}, not {returns[0]}.")
        self.agent.take_over(torch.from_numpy(found.task))

    def facts(self) -> dict[str, Any]:
        if self.config.reuse_every is None:
            return {}
        return {"reuse": {"env_steps": self.reuse_steps, "taken_over": self.reused}}

    def state_dict(self) -> dict[str, Any]:
        own = {"rollout": self.rollout, "envs": self.collector, "episodes": self.episodes}
        reuse = {"reuse_steps": self.reuse_steps, "reused": list(self.reused)}
        return super().state_dict() | {name: part.state_dict() for name, part in own.items()} | reuse

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rollout.load_state_dict(state["rollout"])
        self.episodes.load_state_dict(state["episodes"])
        self.reuse_steps, self.reused = state.get("reuse_steps", 0), state.get("reused", [])
        envs = state["envs"]
        self.collector.load_state_dict(envs if isinstance(envs, list) else [envs])  # early checkpoints had no list

    def close(self) -> None:
        self.collector.close()


def build(config: Config, **parts: Any) -> OnPolicyTrainer:
    return OnPolicyTrainer(config, **parts)
