"""Batch-constrained Q-learning (BCQ): critics choose among actions like those in the data.

Fujimoto, Meger & Precup 2019 ("Off-Policy Deep Reinforcement Learning without Exploration", Algorithm 1), with a task
axis. A variational autoencoder (VAE) generates actions, a network perturbs them, and an ensemble of critics rates them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mtrl.agents.off_policy import CriticBatch, OffPolicyActorCritic, OffPolicyConfig
from mtrl.core.config import check, option
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.gradients import Methods
from mtrl.networks import NETWORKS, Factory, TaskNetwork

LOG_STD_MIN, LOG_STD_MAX = -4.0, 15.0
LATENT_LIMIT = 0.5
"""Actions are generated from standard normal latents, clamped to plus or minus this value."""


@dataclass
class Config(OffPolicyConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("batch",)
    divides_batches: ClassVar[bool] = False  # all processes would draw the same latents
    kind: str = "bcq"
    candidates: int = option(10, "a positive integer")
    """n: actions generated for each state, of which critics choose one."""
    perturbation: float = option(0.05, "0 or more")
    """Φ: the largest change to an entry of a generated action."""
    least_weight: float = option(0.75, "in [0, 1]")
    """λ: a target uses λ times the smallest of the critics' values plus 1 − λ times the largest."""
    kl_weight: float = option(0.5, "0 or more")
    """Weight of the latents' KL divergence from a standard normal. The VAE's squared error has weight 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.n_step == 1, "agent.n_step", "1 with training=batch", self.n_step)
        unseen = "false with training=batch, which does not see the steps of an episode in order"
        check(not self.normalise_rewards, "agent.normalise_rewards", unseen, self.normalise_rewards)

    @property
    def rows(self) -> int:
        """Transitions of each task in the batch that an update draws."""
        return self.batch_size


class ActionVAE(nn.Module):
    """The VAE of one task's actions, given observations, with latents of size L.

    forward(observation, action, noise (.., L)) -> (.., A + 2 L): the reconstructed action, and the means and the
    logarithms of the standard deviations of the latents.
    forward(observation, latent) -> (.., A): the action decoded from a latent.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, observation: Tensor, given: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            return self.decoder(torch.cat([observation, given], -1)).tanh()
        mean, log_std = self.encoder(torch.cat([observation, given], -1)).chunk(2, -1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        again = self.decoder(torch.cat([observation, mean + log_std.exp() * noise], -1)).tanh()
        return torch.cat([again, mean, log_std], -1)


class VAEBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    action: Tensor
    """(T, B, A)"""
    noise: Tensor
    """(T, B, L): standard normal."""


class ActorBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    action: Tensor
    """(T, B, A): generated actions, before they are perturbed."""
    subset: TaskSubset = ALL_TASKS


class BCQ(OffPolicyActorCritic):
    """Batch-constrained Q-learning. The actor is the network that perturbs generated actions."""

    acting: ClassVar[tuple[str, ...]] = ("actor", "critic", "vae", "value_head", "observation_normalisation")
    outputs_per_action: ClassVar[int] = 1
    actor_sees_action: ClassVar[bool] = True
    infers_task: ClassVar[bool] = False
    """Whether the agent infers its task from transitions instead of being told."""

    def __init__(self, config: Any, *, network: Any, methods: Methods, spec: ControlSpec, **context: Any) -> None:
        super().__init__(config, network=network, methods=methods, spec=spec, **context)
        self.latent_size = 2 * self.action_size
        sizes = (spec.observation_size, self.action_size)
        self.vae = TaskNetwork(_vae(network, *sizes, self.latent_size), self.num_tasks).to(self.device)
        # Like the critics', the losses of the VAE are >= 0.
        self.vae_optimizer = self._optimizer(methods, self.vae, "critic", single=True)
        self.target_actor = self._target_of(self.actor)
        fixed = torch.randn(config.candidates, self.latent_size, generator=torch.Generator().manual_seed(0))
        self._fixed = fixed.clamp(-LATENT_LIMIT, LATENT_LIMIT).to(self.device)

    def latents(self, leading: tuple[int, ...]) -> Tensor:
        """Standard normal latents (*leading, L), clamped to `LATENT_LIMIT`."""
        drawn = torch.randn(*leading, self.latent_size, device=self.device, generator=self.generator)
        return drawn.clamp_(-LATENT_LIMIT, LATENT_LIMIT)

    def perturbed(self, actor: Any, observation: Tensor, action: Tensor) -> Tensor:
        """observation s (.., O), action a (.., A) -> clip(a + Φ tanh ξ(s, a), −1, 1), (.., A). actor: ξ."""
        change = actor(torch.cat([observation, action], -1)).tanh()
        return (action + self.config.perturbation * change).clamp(-1, 1)

    @torch.no_grad()
    def act(self, observation: Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """The best of n generated actions (T, N, A), according to the first critic.

        Without `explore`, every call generates actions from the same n latents.
        """
        observation = self._normalised("observation", observation.to(self.device, torch.float32), subset)
        leading, n = observation.shape[:-1], self.config.candidates
        latents = self.latents((*leading, n)) if explore else self._fixed.expand(*leading, n, -1)
        repeated = observation.repeat_interleave(n, -2)
        action = self.perturbed(self.actor, repeated, self.vae(repeated, latents.flatten(-3, -2)))
        q = self.head.value(self.critic(torch.cat([repeated, action], -1)), subset)[0]
        return best_of(action, q, n)

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """One step of the VAE, the critics, the actor and the target networks, in this order."""
        autoencoded: list[Any] = [VAEBatch(b.observation, b.action, self._vae_noise(b)) for b in batches]
        metrics = self.vae_optimizer.step(self.vae_losses, *autoencoded, subset=subset)
        metrics = {f"vae/{name}": value for name, value in metrics.items()}
        metrics |= self.step_critics([self.critic_batch(b) for b in batches], subset)
        metrics |= self.step_actor([self.actor_batch(b) for b in batches], subset)
        self.move_targets()
        return metrics

    def move_targets(self) -> None:
        super().move_targets()
        self.move_target(self.target_actor, self.actor)

    def _vae_noise(self, batch: Transitions) -> Tensor:
        shape = (*batch.reward.shape, self.latent_size)
        return torch.randn(shape, device=self.device, generator=self.generator)

    def vae_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: VAEBatch
    ) -> tuple[Tensor, Metrics]:
        """(a' − a)² + `kl_weight` · KL(N(μ, σ²) ‖ N(0, 1)), (T,): each term is a mean over batch and components."""
        output = self.vae.call(shared, own, own_buffers, *batch)
        again, mean, log_std = output.split([self.action_size, self.latent_size, self.latent_size], -1)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
        return (again - batch.action).square().mean((1, 2)) + self.config.kl_weight * divergence.mean((1, 2)), {}

    @torch.no_grad()
    def critic_batch(self, batch: Transitions, latents: Tensor | None = None) -> CriticBatch:
        """A batch with targets c r + γ (1 − terminated) max_i [λ min_e Q'_e(s', a_i) + (1 − λ) max_e Q'_e(s', a_i)].

        a_i are n generated actions, perturbed by the target actor, and c is `reward_scale`.
        latents (T, B n, L): drawn if not given.
        """
        n, least = self.config.candidates, self.config.least_weight
        observation = batch.next_observation.repeat_interleave(n, -2)
        latents = self.latents(observation.shape[:-1]) if latents is None else latents
        action = self.perturbed(self.target_actor, observation, self.vae(observation, latents))
        q = self.head.value(self.target(torch.cat([observation, action], -1)), batch.subset)
        value = least * q.amin(0) + (1 - least) * q.amax(0)
        return self.bootstrapped(batch, value.unflatten(-1, (-1, n)).amax(-1))

    @torch.no_grad()
    def actor_batch(self, batch: Transitions) -> ActorBatch:
        """The observations of a batch, each with one generated action."""
        latents = self.latents(batch.reward.shape)
        return ActorBatch(batch.observation, self.vae(batch.observation, latents), batch.subset)

    def actor_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ActorBatch
    ) -> tuple[Tensor, Metrics]:
        """−mean_B Q_1(s, a'), (T,), where a' is the generated action after the actor's perturbation."""

        def actor(x: Tensor) -> Tensor:
            return self.actor.call(shared, own, own_buffers, x)

        action = self.perturbed(actor, batch.observation, batch.action)
        return -self.fixed_q(batch.observation, action, batch.subset, members=1)[0].mean(-1), {}

    def _parts(self) -> dict[str, Any]:
        vae = {"vae": self.vae, "vae_method": self.vae_optimizer, "vae_optimizer": self.vae_optimizer.optimizer}
        return super()._parts() | vae | {"target_actor": self.target_actor}


def best_of(action: Tensor, q: Tensor, candidates: int) -> Tensor:
    """The best of n = `candidates` actions for each of N observations, (.., N, A).

    action (.., N n, A), q (.., N n): actions and their values. The n of one observation follow each other.
    """
    best = q.unflatten(-1, (-1, candidates)).argmax(-1, keepdim=True).unsqueeze(-1)
    grouped = action.unflatten(-2, (-1, candidates))
    return grouped.gather(-2, best.expand(*best.shape[:-1], action.shape[-1])).squeeze(-2)


def _vae(network: Any, observation_size: int, action_size: int, latent_size: int) -> Factory:
    encoder = NETWORKS.build(network, input_size=observation_size + action_size, output_size=2 * latent_size)
    decoder = NETWORKS.build(network, input_size=observation_size + latent_size, output_size=action_size)
    return lambda code: ActionVAE(encoder(code), decoder(code))


def build(config: Config, **context: Any) -> BCQ:
    return BCQ(config, **context)
