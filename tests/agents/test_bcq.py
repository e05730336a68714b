"""BCQ's equations against a transcription of Fujimoto et al. 2019, Algorithm 1, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.agents.bcq import VAEBatch, best_of
from mtrl.core.types import Transitions
from tests.support.learners import A, B, Experience, O, T, agent, tensors


@pytest.fixture
def learner() -> Any:
    made = agent("none", "independent", learner="bcq", candidates=4, least_weight=0.6, gamma=0.9)
    for network in (made.actor, made.critic, made.vae, made.target, made.target_actor):
        network.double()
    for network in (made.target, made.target_actor):  # so that they differ from the networks that they follow
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


def batch() -> Transitions:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(T, B, *shape, dtype=torch.float64, generator=generator)

    return Transitions(normal(O), normal(A).tanh(), normal(), normal(O), (normal() > 0.8).double())


def test_targets_take_the_best_of_n_generated_actions(learner: Any) -> None:
    """Compared with a loop over states and candidates, which calls the networks for all tasks at once."""
    given, n = batch(), learner.config.candidates
    latents = torch.randn(T, B * n, 2 * A, dtype=torch.float64).clamp(-0.5, 0.5)
    target = learner.critic_batch(given, latents).target
    for b in range(B):
        best = torch.full((T,), -torch.inf, dtype=torch.float64)
        for i in range(n):
            state = given.next_observation[:, b : b + 1]
            action = learner.vae(state, latents[:, b * n + i].unsqueeze(1))
            change = learner.target_actor(torch.cat([state, action], -1)).tanh()
            action = (action + 0.05 * change).clamp(-1, 1)
            first, second = learner.target(torch.cat([state, action], -1))[..., 0, 0]
            value = 0.6 * torch.minimum(first, second) + 0.4 * torch.maximum(first, second)
            best = torch.maximum(best, value)
        wanted = given.reward[:, b] + 0.9 * (1 - given.terminated[:, b]) * best
        torch.testing.assert_close(target[:, b], wanted, rtol=1e-12, atol=1e-12)


def test_the_autoencoders_loss_is_that_of_torch_distributions(learner: Any) -> None:
    given = batch()
    noise = torch.randn(T, B, 2 * A, dtype=torch.float64)
    losses, _ = learner.vae_losses(*learner.vae.tensors, VAEBatch(given.observation, given.action, noise))
    encoder = learner.vae(given.observation, given.action, noise)
    mean, log_std = encoder[..., A:].chunk(2, -1)
    again = learner.vae(given.observation, mean + log_std.exp() * noise)
    posterior = torch.distributions.Normal(mean, log_std.exp())
    apart = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean((1, 2))
    torch.testing.assert_close(losses, (again - given.action).square().mean((1, 2)) + 0.5 * apart)


def test_only_the_network_that_perturbs_actions_gets_gradients_of_the_actors_loss(learner: Any) -> None:
    given = learner.actor_batch(batch())
    losses, _ = learner.actor_losses(*learner.actor.tensors, given)
    losses.sum().backward()
    assert all(p.grad is None for p in (*learner.critic.parameters(), *learner.vae.parameters()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.actor.parameters())
    change = learner.actor(torch.cat([given.observation, given.action], -1)).tanh()
    action = (given.action + 0.05 * change).clamp(-1, 1)
    q = learner.critic(torch.cat([given.observation, action], -1))[0, ..., 0]
    torch.testing.assert_close(losses, -q.mean(-1))


def test_the_best_action_is_chosen_in_each_state() -> None:
    action = torch.arange(12.0).view(1, 6, 2)
    q = torch.tensor([[0.0, 2.0, 1.0, 5.0, -1.0, 7.0]])
    assert best_of(action, q, 3).tolist() == [[[2.0, 3.0], [10.0, 11.0]]]


def test_actions_stay_near_those_of_the_data() -> None:
    """The data have only small actions. So critics that prefer large ones cannot lead the policy to them."""
    learner = agent("none", "independent", learner="bcq", perturbation=0.05, kl_weight=0.01)
    given, generator = batch(), torch.Generator().manual_seed(1)
    small = 0.1 * given.action.float()
    for _ in range(300):
        rows = torch.randint(B, (B,), generator=generator)
        chosen = given._replace(observation=given.observation.float(), action=small)
        part = chosen.map(lambda x, rows=rows: x[:, rows].float())
        learner.update(part._replace(reward=part.action.sum(-1)))
    assert learner.act(given.observation.float(), explore=False).abs().max() < 0.2


def test_updates_repeat_and_acting_without_exploration_draws_no_random_numbers() -> None:
    first, second = (agent("pcgrad", "mlp", learner="bcq") for _ in range(2))
    for learner in (first, second):
        learner.learn(Experience(learner).draw, 3)
        assert learner._updates == 3
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    state, observation = first.generator.get_state(), torch.randn(T, 4, O)
    assert torch.equal(first.act(observation, explore=False), first.act(observation, explore=False))
    assert torch.equal(first.generator.get_state(), state)
