"""On-policy training: collect a rollout with the current policy, learn from it, throw it away.

Actions are computed on one core, environments step on all cores with their own engine, and the learner updates on all
cores; nothing is collected with a policy that is no longer the current one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.cores import torch_threads
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.types import Metrics, TaskVectorEnv
from mtrl.data.rollout import Rollout
from mtrl.training.control import ControlSuite, ControlTrainer, EpisodeStatistics
from mtrl.training.trainer import TrainingConfig


@dataclass
class Config(TrainingConfig):
    """Steps are environment steps of each task; all tasks together take T times as many."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)

    kind: str = "on_policy"
    envs_per_task: int = 8
    """N: environments of each task, stepped side by side."""
    rollout_steps: int = 500
    """R: steps of each environment between two updates of the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("envs_per_task", "rollout_steps"):
            check(getattr(self, name) >= 1, f"training.{name}", "a positive integer", getattr(self, name))


class Agent(Protocol):
    """What the loop needs of a learner."""

    device: torch.device

    def explore(self, observation: Tensor) -> Tensor:
        """observation (T, N, O) -> sampled actions (T, N, A), which may lie outside [-1, 1]."""
        ...

    def learn(self, rollout: Rollout, progress: float) -> tuple[Metrics, int]:
        """Learn from a full rollout. Returns metrics and the number of optimiser steps of the actor.

        progress: the share of the run's steps that is done, for schedules.
        """
        ...


class OnPolicyTrainer(ControlTrainer):
    """One agent, its environments and the rollout under way. A run goes on from a checkpoint bit for bit, also from
    the middle of a rollout."""

    envs: TaskVectorEnv
    rollout: Rollout

    def __init__(self, config: Config, *, agent: Agent, suite: ControlSuite, seed: int, steps: int) -> None:
        super().__init__(config, agent=agent, suite=suite, seed=seed, steps=steps)
        self.seconds = {"act": 0.0, "step": 0.0, "update": 0.0}
        self._observation: Tensor | None = None

    def start(self) -> Self:
        """Make new environments and an empty rollout."""
        spec, config = self.suite.spec, self.config
        self.envs = self.suite.make_envs(self.seed, config.envs_per_task)
        shape = (spec.num_tasks, config.rollout_steps, config.envs_per_task)
        self.rollout = Rollout(*shape, spec.observation_size, spec.action_size, self.agent.device)
        self.episodes = EpisodeStatistics(spec.num_tasks, config.envs_per_task)
        return self

    def advance(self) -> Metrics | None:
        """One step of every environment, and the update where that completes a rollout."""
        if self._observation is None:
            self._observation = torch.tensor(self.envs.reset(), dtype=torch.float32)
        with self.clock("act"), torch_threads(1):
            action = self.agent.explore(self._observation)
            played = action.clamp(-1, 1).cpu().numpy()
        with self.clock("step"):
            result = self.envs.step(played)
        self.rollout.add(self._observation, action, result)
        self._observation = torch.tensor(result.observation, dtype=torch.float32)
        self.episodes.add(result)
        self.step += self.envs.envs_per_task
        if not self.rollout.is_full:
            return None
        with self.clock("update"):
            metrics, updates = self.agent.learn(self.rollout, self.step / self.steps)
        self.updates += updates
        self.rollout.clear()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        own = {"rollout": self.rollout, "envs": self.envs, "episodes": self.episodes}
        return super().state_dict() | {name: part.state_dict() for name, part in own.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rollout.load_state_dict(state["rollout"])
        self.episodes.load_state_dict(state["episodes"])
        self._observation = torch.tensor(self.envs.load_state_dict(state["envs"]), dtype=torch.float32)

    def close(self) -> None:
        self.envs.close()


def build(config: Config, **parts: Any) -> OnPolicyTrainer:
    return OnPolicyTrainer(config, **parts)
