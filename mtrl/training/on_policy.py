"""On-policy training: collect a rollout with the current policy, learn from it, and discard it.

Actions are computed on one core. Environments on the batched engine and the learner's updates use all cores. No step
is taken with an outdated policy. With `training.collector=ray`, processes of a Ray cluster collect the rollout, and the
results stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from mtrl.core.config import check, option, runtime_option
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import Metrics
from mtrl.data.rollout import Rollout
from mtrl.training.collecting import Actor, Collector, CollectorConfig, LocalCollector
from mtrl.training.control import ControlSuite, ControlTrainer, EpisodeStatistics, check_parts, make_part
from mtrl.training.reuse import PolicyReuse, Reusing


@dataclass
class Config(CollectorConfig):
    """Steps are environment steps of each task; all tasks together take T times as many."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)

    kind: str = "on_policy"
    envs_per_task: int = 8
    """N: copies of each task's environment, which step in parallel."""
    rollout_steps: int = option(500, "a positive integer")
    """R: steps of each copy in a rollout, after which the policy is updated."""
    collector: str = runtime_option("local")
    """Where rollouts are collected: in this process (local), or in processes on the machines of a Ray cluster (ray)."""
    reuse_every: int | None = option(None, "a positive integer")
    """Steps after which unsolved tasks try the policies of solved tasks, and take over the best one (see the module
    `mtrl.training.reuse`); null for never."""
    reuse_episodes: int = option(2, "a positive integer")
    """Episodes that each policy plays when it is tried."""
    reuse_below: float = option(0.05, "in (0, 1]")
    """A task is unsolved if it solved less than this share of its training episodes since the last trial."""


class Agent(Actor, Reusing, Protocol):
    """What the training loop needs of an agent."""

    config: Any
    needs_second_batch: bool
    """Whether a step on a minibatch needs a second one."""

    def learn(self, rollout: Rollout, progress: float) -> tuple[Metrics, int]:
        """Learn from a full rollout. Returns metrics and the number of the actor's optimiser steps.

        progress: the share of the run's steps taken so far, in [0, 1], for schedules.
        """
        ...


class OnPolicyTrainer(ControlTrainer):
    """An agent, its environments and the current rollout.

    A run continues from a checkpoint bit for bit, even in the middle of a rollout.
    """

    agent: Agent
    suite: ControlSuite
    collector: Collector
    rollout: Rollout
    reuse: PolicyReuse | None

    def start(self) -> Self:
        """Make new environments and an empty rollout.

        Raises:
            UserError: a rollout or its minibatches are too small; evaluations have too few goals; the benchmark cannot
                divide its environments among workers; or, with collector=ray, Ray or the cluster is missing, or the
                cluster has too few cores.
        """
        super().start()
        self._check_sizes()
        spec, config = self.suite.spec, self.config
        self.reuse = None if config.reuse_every is None else PolicyReuse(config, self.agent, self.suite, self.seed)
        self.collector = self._collector()
        shape = (spec.num_tasks, config.rollout_steps, config.envs_per_task)
        self.rollout = Rollout(*shape, spec.observation_size, spec.action_size, self.agent.device)
        self.episodes = EpisodeStatistics(spec.num_tasks, config.envs_per_task)
        self.seconds = {"act": 0.0, "step": 0.0, "update": 0.0}
        if self.reuse is not None:
            self.seconds["reuse"] = 0.0
        return self

    def _check_sizes(self) -> None:
        """Check that no minibatch is empty, and that there is a second one if an update needs it."""
        config, parts = self.config, getattr(self.agent.config, "minibatches", 2)
        second = self.agent.needs_second_batch
        several = "2 or more with a weighting that needs a second batch"
        check(parts > 1 or not second, "agent.minibatches", several, parts)
        needed = f"{max(2, parts)} or more samples of each task (training.rollout_steps times training.envs_per_task)"
        found = config.rollout_steps * config.envs_per_task
        if found < max(2, parts):
            raise expected(f"A rollout for agent.minibatches={parts}", needed, found)

    def _collector(self) -> Collector:
        config = self.config
        check_parts(self.suite, config.workers)
        if config.collector == "ray":
            from mtrl.training.ray_collector import RayCollector  # other runs do not need Ray

            assert self.rebuild is not None, "an experiment sets `rebuild`"
            shape = (self.suite.spec.num_tasks, config.envs_per_task)
            return RayCollector(config, self.agent, self.rebuild, shape, self.seed, self.clock)
        envs = [make_part(self.suite, self.seed, config.envs_per_task, part) for part in config.parts]
        return LocalCollector(self.agent, envs, self.clock)

    def advance(self) -> Metrics | None:
        """Take the collector's next steps, and learn if they complete a rollout."""
        copies = self.config.envs_per_task
        left = max(1, math.ceil((self.steps - self.step) / copies))
        if not self.step and left < self.rollout.steps:
            first = f"No updates: the first rollout ends after {self.rollout.steps * copies} steps"
            self.agent.announce(f"{first} (training.rollout_steps times training.envs_per_task).")
        for observation, action, result in self.collector.collect(min(self.rollout.steps - self.rollout.filled, left)):
            self.rollout.add(observation, action, result)
            self.episodes.add(result)
            self.step += copies
        if not self.rollout.is_full:
            return None
        with self.clock("update"):
            metrics, updates = self.agent.learn(self.rollout, min(1.0, self.step / self.steps))
        self.updates += updates
        self.rollout.clear()
        if self.reuse is not None and self.reuse.is_due(self.step) and self.step < self.steps:
            with self.clock("reuse"):
                self.reuse.take_over(self.policy, self.step, self.episodes)
        return metrics

    def facts(self) -> dict[str, Any]:
        return {} if self.reuse is None else {"reuse": self.reuse.facts()}

    def state_dict(self) -> dict[str, Any]:
        own: dict[str, Any] = {"rollout": self.rollout, "envs": self.collector, "episodes": self.episodes}
        own |= {} if self.reuse is None else {"reuse": self.reuse}
        return super().state_dict() | {name: part.state_dict() for name, part in own.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rollout.load_state_dict(state["rollout"])
        self.episodes.load_state_dict(state["episodes"])
        if self.reuse is not None:
            self.reuse.load_state_dict(state["reuse"])
        envs = state["envs"]
        self.collector.load_state_dict(envs if isinstance(envs, list) else [envs])  # early checkpoints had no list

    def close(self) -> None:
        self.collector.close()
        if self.reuse is not None:
            self.reuse.close()


def build(config: Config, **parts: Any) -> OnPolicyTrainer:
    return OnPolicyTrainer(config, **parts)
