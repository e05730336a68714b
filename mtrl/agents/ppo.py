"""Multi-task PPO: a Gaussian policy and a value function for each task (Schulman et al. 2017).

"Proximal Policy Optimization Algorithms" with generalised advantages (Schulman et al. 2016) and a task axis: actor and
critic each have one loss per task, and a `MultiTaskOptimizer` combines the gradients of each. Advantages are normalised
within each task, by default with the largest standard deviation that the task has had so far. With `popart`, the
default, the critic's targets are normalised within each task too, as in TOPPO (arXiv 2605.11473). The weights of the
actor's output layer start a hundred times smaller than usual, so that the first actions are near zero (Andrychowicz et
al. 2021, "What Matters for On-Policy Deep Actor-Critic Methods?").

The policy's standard deviations do not depend on the state: every task owns one for each entry of an action. A limit
that changes with time clamps them, and those above it have no gradient. So with `max_std` at most `initial_std`, and
`final_max_std` below it, as in the recipes, the limit decides for all tasks alike, and the entropy bonus has no effect.

In training, actions are sampled from the Gaussian, and only the environments clip them. Old log-probabilities are
computed again when a rollout is complete, with the observation statistics that the update uses, so that ratios start at
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mtrl.agents.actor_critic import ActorCriticConfig
from mtrl.agents.advantages import generalised_advantages
from mtrl.agents.base import branch
from mtrl.agents.on_policy import OnPolicyActorCritic
from mtrl.core.config import check, option
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors
from mtrl.data.rollout import Rollout
from mtrl.execution import precision
from mtrl.networks.base import Factory
from mtrl.networks.columns import ColumnLinear
from mtrl.networks.layers import Linear, owned

LOG_2PI = math.log(2 * math.pi)
OUTPUT_SCALE = 0.01
"""Factor of the initial weights of the actor's output layer."""


@dataclass
class Config(ActorCriticConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("on_policy",)
    kind: str = "ppo"
    learning_rate: float = 5e-4
    """Adam's initial learning rate."""
    final_learning_rate: float = option(1.0, "in [0, 1]")
    """Share of the learning rate that is left at the last step, after a linear decay."""
    adam_eps: float = 1e-5
    gae_lambda: float = option(0.95, "in [0, 1]")
    """λ of generalised advantage estimation."""
    success_value: str = option("critic", ("critic", "last_reward"))
    """Value of a state in which an episode is truncated and its task is solved: the critic's (critic), or that of the
    step's reward r in every step from then on (last_reward), r / (1 − γ)."""
    epochs: int = option(8, "a positive integer")
    """Largest number of passes over a rollout."""
    minibatches: int = option(8, "a positive integer")
    """Optimiser steps per pass, each on an equal share of every task's transitions."""
    advantage_scale: str = option("largest", ("largest", "present"))
    """Standard deviation by which a task's advantages are divided: that of this rollout (present), or the largest so
    far (largest), which keeps the gradients of already solved tasks small."""
    clip_range: float = option(0.2, "positive")
    """ε: probability ratios are clipped to [1 − ε, 1 + ε]."""
    target_kl: float | None = option(0.02, "positive")
    """KL divergence from the policy before the update, averaged over a pass, beyond which no further pass is made; null
    for no limit."""
    entropy_coefficient: float = option(0.0, "0 or more")
    """Weight of the policy's entropy bonus. It has no effect on standard deviations above their limit."""
    initial_std: float = 0.6
    """Initial standard deviation of the actions. One that is above the limit does not learn."""
    min_std: float = option(0.1, "positive")
    """Least standard deviation of the actions."""
    max_std: float = 0.6
    """Largest standard deviation of the actions at the first step."""
    final_max_std: float = 0.6
    """Largest standard deviation of the actions at the last step. The limit changes linearly in between. If it falls
    from `initial_std` or less, it decides for all tasks alike, and standard deviations are not learned."""
    noise_correlation: list[float] = field(default_factory=lambda: [0.0])
    """ρ, assigned to a task's environments in turn: correlation of their exploration noise ε from one step to the next,
    ε' = ρ ε + √(1 − ρ²) ξ with new noise ξ. It moves the hand farther than independent noise of the same size."""
    max_grad_norm: float | None = 1.0
    normalise_observations: str = "shared"
    popart: bool = True
    execution: str = "plain"
    popart_rate: float = 0.2
    """Weight of new targets in PopArt's running statistics, which are updated with all targets of a rollout, and then
    again with each minibatch's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_std", "max_std", "final_max_std"):
            above = f"at least agent.min_std ({self.min_std})"
            check(getattr(self, name) >= self.min_std, f"agent.{name}", above, getattr(self, name))
        values = self.noise_correlation
        check(bool(values) and all(0 <= x < 1 for x in values), "agent.noise_correlation", "a list in [0, 1)", values)
        finite = self.success_value == "critic" or self.gamma < 1
        check(finite, "agent.gamma", "below 1 with agent.success_value=last_reward", self.gamma)


class ActorBatch(NamedTuple):
    observation: Tensor
    """(T, B, O), normalised."""
    action: Tensor
    """(T, B, A)"""
    log_prob: Tensor
    """(T, B): log-probabilities of the actions under the policy before the update."""
    advantage: Tensor
    """(T, B), normalised."""


class CriticBatch(NamedTuple):
    observation: Tensor
    """(T, B, O), normalised."""
    target: Tensor
    """(T, B)"""


class Deviation(nn.Module):
    """Means (.., A) -> means and log standard deviations (.., 2A). The latter are a parameter, whatever the state."""

    def __init__(self, size: int, initial: float) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((size,), math.log(initial)))

    def forward(self, mean: Tensor) -> Tensor:
        return torch.cat([mean, self.log_std.unsqueeze(-2).expand_as(mean)], -1)


class PPO(OnPolicyActorCritic):
    outputs_per_action: ClassVar[int] = 1

    def __init__(self, config: Config, *, spec: ControlSpec, **context: Any) -> None:
        known = config.success_value == "critic" or spec.tells_success
        check(known, "agent.success_value", "critic where a benchmark does not tell success", config.success_value)
        super().__init__(config, spec=spec, **context)
        self.max_log_std = torch.tensor(math.log(config.max_std), device=self.device)
        self.advantage_deviation = torch.zeros(self.num_tasks, 1, device=self.device)
        """(T, 1): the standard deviation by which the last rollout's advantages were divided."""
        self._correlations = torch.tensor(config.noise_correlation, device=self.device)
        self.last_noise = torch.zeros(0, device=self.device)
        """(T, N, A): the exploration noise of the last step, where it is correlated with that of the next."""

    def wrap_actor(self, factory: Factory) -> Factory:
        def build(code: Tensor) -> nn.Module:
            means = factory(code)
            with torch.no_grad():
                for layer in self._output_layers(means):
                    layer.weight.mul_(OUTPUT_SCALE)
                    if layer.bias is not None:
                        layer.bias.zero_()
            return nn.Sequential(means, owned(Deviation(self.action_size, self.config.initial_std)))

        return build

    def _output_layers(self, network: nn.Module) -> list[Linear | ColumnLinear]:
        """The layers with A outputs in the network's last child that has any, or else in the network itself.

        Earlier children do not count, since hidden layers may have A outputs, too.
        """
        for part in reversed([network, *network.children()]):
            layers = (layer for layer in part.modules() if isinstance(layer, Linear | ColumnLinear))
            if found := [layer for layer in layers if layer.weight.shape[-2] == self.action_size]:
                return found
        return []

    def distribution(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's output (.., 2A) -> means and log standard deviations (.., A), the latter within their limits."""
        mean, log_std = output.chunk(2, -1)
        return mean, log_std.clamp(max=self.max_log_std).clamp(min=math.log(self.config.min_std))

    def greedy(self, output: Tensor) -> Tensor:
        return output.chunk(2, -1)[0]

    def sampled(self, output: Tensor, noise: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        mean, log_std = self.distribution(output)
        return mean + log_std.exp() * noise

    def noise(self, leading: tuple[int, ...]) -> Tensor:
        """Standard normal noise (*leading, A), correlated with the last call's by `noise_correlation`.

        The last entry of `leading` counts a task's environments.
        """
        noise = super().noise(leading)
        if not any(self.config.noise_correlation):
            return noise
        if self.last_noise.shape == noise.shape:
            environments, values = leading[-1], self._correlations
            correlation = values.repeat(-(-environments // len(values)))[:environments].unsqueeze(-1)
            noise = correlation * self.last_noise + (1 - correlation.square()).sqrt() * noise
        self.last_noise = noise
        return noise

    def exploring_state(self) -> dict[str, Any]:
        return super().exploring_state() | {"max_log_std": self.max_log_std}

    def load_exploring_state(self, state: Mapping[str, Any]) -> None:
        super().load_exploring_state(state)
        self.max_log_std.copy_(state["max_log_std"])

    def learn(self, rollout: Rollout, progress: float) -> tuple[Metrics, int]:
        """Take up to `epochs` passes over a rollout. progress: the share of the run's steps taken, for schedules.

        Returns metrics and the number of optimiser steps of the actor. After each pass the host reads one number: the
        KL divergence, which decides whether there is another pass.
        """
        self._schedule(progress)
        branch(self.generator, self.critic_optimizer.generator)
        with precision.network_products(self.config.precision, self.device):
            metrics = self._prepare(rollout)
            updates, found = 0, dict[str, Tensor]()
            for _ in range(self.config.epochs):
                found, divergence = self.take_pass(self.config.minibatches)
                updates += self.config.minibatches
                if self.config.target_kl is not None and divergence.item() > self.config.target_kl:
                    break
        return metrics | found, updates

    def _schedule(self, progress: float) -> None:
        config = self.config
        self.set_rate(config.learning_rate * (1 + (config.final_learning_rate - 1) * progress))
        std = config.max_std + (config.final_max_std - config.max_std) * progress
        self.max_log_std.fill_(math.log(std))

    def _observe(self, rollout: Rollout) -> None:
        """Add a rollout to the normalisers' running statistics, before learning from it."""
        if "observation" in self._normalisers:
            self._normalisers["observation"].observe(rollout.transitions())
        if "reward" in self._normalisers:
            for step in range(rollout.steps):
                self._normalisers["reward"].observe(rollout.transitions(slice(step, step + 1)))

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> Metrics:
        """Make the data of the passes from a rollout of R steps: fields (T, R N, ..). Returns metrics, (T,) each."""
        self._observe(rollout)
        batch = rollout.transitions()
        observation, successor = (
            self._normalised("observation", x) for x in (batch.observation, batch.next_observation)
        )
        shape = rollout.reward.shape
        (value, next_value), log_prob = self.at_once(
            lambda: [self.head.value(self.critic(x)).view(shape) for x in (observation, successor)],
            lambda: self.log_prob(self.actor(observation), batch.action),
        )
        reward = self._normalised("reward", batch.reward).view(shape)
        if self.config.success_value == "last_reward":
            solved = rollout.ended * rollout.success  # where the episode has terminated, no value is taken
            next_value = torch.where(solved > 0, reward / (1 - self.config.gamma), next_value)
        advantage = generalised_advantages(
            reward,
            value,
            next_value,
            rollout.terminated,
            rollout.ended,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        ).flatten(1)
        target = advantage + value.flatten(1)
        self.head.observe(target, ALL_TASKS, self.value_networks)
        explained = 1 - advantage.var(1) / target.var(1).clamp(min=1e-8)
        deviation, largest = advantage.std(1, keepdim=True), self.config.advantage_scale == "largest"
        self.advantage_deviation.copy_(torch.maximum(deviation, self.advantage_deviation) if largest else deviation)
        normalised = (advantage - advantage.mean(1, keepdim=True)) / (self.advantage_deviation + 1e-8)
        self.load_minibatches(
            actor=ActorBatch(observation, batch.action, log_prob, normalised), critic=CriticBatch(observation, target)
        )
        return {"explained_variance": explained, "return_std": target.std(1)}

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """log N(action; mean, std), (T, B), from the actor's output (T, B, 2A) and actions (T, B, A)."""
        mean, log_std = self.distribution(output)
        return (-0.5 * ((action - mean) * (-log_std).exp()).square() - log_std - 0.5 * LOG_2PI).sum(-1)

    def actor_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ActorBatch
    ) -> tuple[Tensor, Metrics]:
        """−mean_B min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â) − c H, (T,), with ρ = π(a|s) / π_old(a|s) and the entropy H."""
        output = self.actor.call(shared, own, own_buffers, batch.observation)
        log_ratio, clip = self.log_prob(output, batch.action) - batch.log_prob, self.config.clip_range
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        entropy = (self.distribution(output)[1] + 0.5 * (1 + LOG_2PI)).sum(-1).mean(-1)
        losses = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean(-1)
        with torch.no_grad():
            metrics = {
                "kl": (ratio - 1 - log_ratio).mean(-1),  # never negative (Schulman 2020, "Approximating KL divergence")
                "clipped": (ratio != clipped).to(ratio).mean(-1),
                "entropy": entropy.detach(),
            }
        return losses - self.config.entropy_coefficient * entropy, metrics

    def critic_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: CriticBatch
    ) -> tuple[Tensor, Metrics]:
        """mean_B loss(V(s), target), (T,), with the value head's loss. Metric: value (T,), the mean of V(s)."""
        output = self.critic.call(shared, own, own_buffers, batch.observation)
        return self.head.loss(output, batch.target).mean(-1), {"value": self.head.value(output.detach()).mean(-1)}

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("max_log_std", "advantage_deviation", "last_noise")}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.max_log_std.copy_(state["max_log_std"])
        self.advantage_deviation.copy_(state["advantage_deviation"])
        self.last_noise = state["last_noise"].to(self.device)


def build(config: Config, **context: Any) -> PPO:
    return PPO(config, **context)
