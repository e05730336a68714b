"""Multi-task TD3: a deterministic actor, twin critics, smoothed targets, delayed actor updates (Fujimoto et al. 2018).

"Addressing Function Approximation Error in Actor-Critic Methods", Algorithm 1, with a task axis as in `sac`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mtrl.agents.off_policy import CriticBatch, Draw, OffPolicyActorCritic, OffPolicyConfig
from mtrl.core.config import check, option
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions


@dataclass
class Config(OffPolicyConfig):
    kind: str = "td3"
    policy_delay: int = option(2, "a positive integer")
    """d: the actor and the target networks are updated only at every d-th update."""
    exploration_noise: list[float] = field(default_factory=lambda: [0.1])
    """Standard deviation of the Gaussian noise on training actions: one value for all tasks, or one for each."""
    target_policy_noise: float = option(0.2, "0 or more")
    """σ: standard deviation of the noise on target actions, which smooths the targets."""
    target_noise_clip: float = option(0.5, "0 or more")
    """c: limit to which the noise on target actions is clipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        noise = self.exploration_noise
        check(
            bool(noise) and all(0 <= value < math.inf for value in noise),
            "agent.exploration_noise",
            "a list of values of 0 or more",
            noise,
        )


class ActorBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    subset: TaskSubset = ALL_TASKS


class TD3(OffPolicyActorCritic):
    outputs_per_action: ClassVar[int] = 1

    def __init__(self, config: Config, **context: Any) -> None:
        super().__init__(config, **context)
        found = len(config.exploration_noise)
        counts = f"a list of 1 value, or of {self.num_tasks}, one for each task"
        check(found in (1, self.num_tasks), "agent.exploration_noise", counts, f"{found} values")
        deviation = torch.tensor(config.exploration_noise, device=self.device).expand(self.num_tasks)
        self._exploration = deviation.clone().view(-1, 1, 1)
        self.target_actor = self._target_of(self.actor)

    def greedy(self, output: Tensor) -> Tensor:
        return output.tanh()

    def sampled(self, output: Tensor, noise: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return output.tanh() + subset.gather(self._exploration) * noise

    def _runner(self, draw: Draw) -> Callable[[int], Metrics]:
        """Updates of only the critics and updates of everything are captured or compiled separately. The host counts
        updates to choose between them. The actor's metrics are those of its last update."""
        critics_only = self._executed(lambda: self._take(self._critic_equations, *draw()))
        whole = self._executed(lambda: self.update(*draw()))
        latest: Metrics = {}

        def run(count: int) -> Metrics:
            for update in range(self._updates + 1, self._updates + count + 1):
                latest.update((critics_only if update % self.config.policy_delay else whole)(1))
            return dict(latest)

        return run

    def _critic_equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        return self.step_critics([self.critic_batch(b) for b in batches], subset)

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """One step of the critics, the actor and both target networks. `learn` takes it only at every d-th update."""
        metrics = self._critic_equations(batches, subset)
        metrics |= self.step_actor([ActorBatch(b.observation, b.subset) for b in batches], subset)
        self.move_targets()
        return metrics

    def move_targets(self) -> None:
        super().move_targets()
        self.move_target(self.target_actor, self.actor)

    @torch.no_grad()
    def critic_batch(self, batch: Transitions, noise: Tensor | None = None) -> CriticBatch:
        """The batch with the target y = r + γ (1 − terminated) min_e Q'_e(s', a').

        Here a' = clip(π'(s') + clip(ε, −c, c), −1, 1), ε ~ N(0, σ²), and c is `target_noise_clip`. `bootstrapped`
        scales rewards, and replaces γ for returns of several steps.

        noise (T, B, A): standard normal, scaled by σ here; drawn if not given.
        """
        noise = self.noise_of_share(batch.reward.shape) if noise is None else noise
        limit = self.config.target_noise_clip
        smoothing = (noise * self.config.target_policy_noise).clamp(-limit, limit)
        action = self.target_actor.at(batch.subset)(batch.next_observation).tanh() + smoothing
        return self.bootstrapped(batch, self.target_q(batch, action.clamp(-1, 1)))

    def actor_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ActorBatch
    ) -> tuple[Tensor, Metrics]:
        """−mean_B Q_1(s, π(s)), (T,)."""
        action = self.actor.call(shared, own, own_buffers, batch.observation).tanh()
        return -self.fixed_q(batch.observation, action, batch.subset, members=1)[0].mean(-1), {}

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"target_actor": self.target_actor}


def build(config: Config, **context: Any) -> TD3:
    return TD3(config, **context)
