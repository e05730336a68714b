"""Multi-task soft actor-critic: twin critics, a tanh-Gaussian actor, one temperature per task (Haarnoja et al. 2018).

"Soft Actor-Critic Algorithms and Applications" with a task axis: actor and critics have one loss per task, and a
`MultiTaskOptimizer` combines the T gradients of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents.off_policy import CriticBatch, OffPolicyActorCritic, OffPolicyConfig
from mtrl.core.config import option
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


@dataclass
class Config(OffPolicyConfig):
    kind: str = "sac"
    initial_temperature: float = option(1.0, "positive")
    """Initial temperature α of every task."""
    shared_temperature: bool = False
    """Whether all tasks share one temperature. This suits many tasks, such as goals, of which each is seldom drawn."""
    target_entropy: float | None = None
    """Entropy of the policy, in nats, that temperatures aim for; −A (minus the size of an action) if not given."""


class ActorBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    noise: Tensor
    """(T, B, A): standard normal."""
    temperature: Tensor
    """(T, 1)"""
    subset: TaskSubset = ALL_TASKS


def tanh_gaussian(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(u) (.., A) and their log-densities (..) from a network's output (.., 2A) and standard normal noise
    (.., A), where u = mean + std · noise.

    log π = Σ_a [log N(u_a) − log(1 − tanh² u_a)], with the last term as 2 (log 2 − u − softplus(−2u)).
    """
    mean, log_std = output.chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_prob = (log_normal - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)
    return u.tanh(), log_prob


class SAC(OffPolicyActorCritic):
    outputs_per_action: ClassVar[int] = 2
    extras: ClassVar[tuple[str, ...]] = ("log_alpha",)

    def __init__(self, config: Config, **context: Any) -> None:
        super().__init__(config, **context)
        alphas = 1 if config.shared_temperature else self.num_tasks
        self.log_alpha = torch.full((alphas,), math.log(config.initial_temperature), device=self.device)
        self.log_alpha.requires_grad_()
        self.target_entropy = -float(self.action_size) if config.target_entropy is None else config.target_entropy
        self.alpha_optimizer = self._adam([self.log_alpha])

    def greedy(self, output: Tensor) -> Tensor:
        return output.chunk(2, -1)[0].tanh()

    def sampled(self, output: Tensor, noise: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return tanh_gaussian(output, noise)[0]

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """One step of the critics, the actor, the temperatures and the target critics, in this order."""
        log_alpha = self.log_alpha.detach().expand(self.num_tasks)
        alpha = subset.gather(log_alpha).exp().unsqueeze(-1)
        extras = {"log_alpha": log_alpha}
        metrics = self.step_critics([self.critic_batch(b, alpha) for b in batches], subset, extras=extras)
        metrics |= self.step_actor([self.actor_batch(b, alpha) for b in batches], subset, extras=extras)
        self._move_temperature(metrics.pop("actor/log_prob"), subset)
        self.move_targets()
        return metrics | {"temperature": alpha.squeeze(-1)}

    def _move_temperature(self, log_prob: Tensor, subset: TaskSubset) -> None:
        """Take a step on log α. log_prob (S,): the mean log π of each of the batch's S tasks.

        The gradients of the other tasks are zero. A shared α follows the mean of the S gradients.
        """
        gradient = -(log_prob + self.target_entropy)
        shared = self.config.shared_temperature
        self.log_alpha.grad = gradient.mean().unsqueeze(0) if shared else subset.scatter(gradient, self.log_alpha)
        self.alpha_optimizer.step()

    @torch.no_grad()
    def critic_batch(self, batch: Transitions, alpha: Tensor, noise: Tensor | None = None) -> CriticBatch:
        """The batch with the target y = r + γ (1 − terminated) (min_e Q'_e(s', a') − α log π(a'|s')), a' ~ π(·|s').

        alpha (T, 1); noise (T, B, A): drawn if not given. See `bootstrapped` for scaled rewards and n-step returns.
        """
        noise = self.noise_of_share(batch.reward.shape) if noise is None else noise
        action, log_prob = tanh_gaussian(self.actor.at(batch.subset)(batch.next_observation), noise)
        return self.bootstrapped(batch, self.target_q(batch, action) - alpha * log_prob)

    def actor_batch(self, batch: Transitions, alpha: Tensor, noise: Tensor | None = None) -> ActorBatch:
        """The batch with its noise and temperatures. Arguments as in `critic_batch`."""
        noise = self.noise_of_share(batch.reward.shape) if noise is None else noise
        return ActorBatch(batch.observation, noise, alpha, batch.subset)

    def actor_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ActorBatch
    ) -> tuple[Tensor, Metrics]:
        """mean_B (α log π(a|s) − min_e Q_e(s, a)), (T,), for reparametrised samples a."""
        output = self.actor.call(shared, own, own_buffers, batch.observation)
        action, log_prob = tanh_gaussian(output, batch.noise)
        q = self.fixed_q(batch.observation, action, batch.subset).amin(0)
        return (batch.temperature * log_prob - q).mean(-1), {"log_prob": log_prob.detach().mean(-1)}

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"alpha_optimizer": self.alpha_optimizer}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"log_alpha": self.log_alpha.detach()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])


def build(config: Config, **context: Any) -> SAC:
    return SAC(config, **context)
