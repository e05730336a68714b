"""Multi-task SAC: its equations written out, and a small problem it must solve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mtrl.agents import AGENTS
from mtrl.agents.off_policy import CriticBatch
from mtrl.agents.sac import SAC, ActorBatch, tanh_gaussian
from mtrl.core.specs import ControlSpec
from mtrl.core.types import Transitions
from mtrl.data.replay import ReplayBuffer
from mtrl.gradients import Methods
from mtrl.networks import NETWORKS

T, B, O, A = 3, 16, 5, 2


def make(surgery: str = "none", network: str = "multi_head", seed: int = 0, **options: Any) -> SAC:
    torch.manual_seed(seed)
    return AGENTS.build(
        AGENTS.config_class("sac")(**{"batch_size": B, **options}),
        network=NETWORKS.config_class(network)(width=32, depth=2),
        methods=Methods.of(surgery),
        spec=ControlSpec(tuple(map(str, range(T))), O, A, horizon=10),
        seed=seed,
    )


def batch(seed: int = 0, terminated: float | None = None) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    done = torch.randint(2, (T, B), generator=g).float() if terminated is None else torch.full((T, B), terminated)
    return Transitions(
        torch.randn(T, B, O, generator=g),
        torch.rand(T, B, A, generator=g) * 2 - 1,
        torch.rand(T, B, generator=g),
        torch.randn(T, B, O, generator=g),
        done,
    )


def test_log_density_is_that_of_a_squashed_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    output, noise = (torch.randn(4, 6, n, dtype=torch.float64, generator=generator) for n in (2 * A, A))
    action, log_prob = tanh_gaussian(output, noise)
    mean, log_std = output.chunk(2, -1)
    squashed = TransformedDistribution(Normal(mean, log_std.clamp(-20, 2).exp()), [TanhTransform()])
    torch.testing.assert_close(log_prob, squashed.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(action, (mean + log_std.clamp(-20, 2).exp() * noise).tanh())


def test_extreme_outputs_stay_finite() -> None:
    output = torch.full((1, 1, 2 * A), 1e4)
    action, log_prob = tanh_gaussian(output, torch.ones(1, 1, A))
    assert action.isfinite().all() and log_prob.isfinite().all()


def test_target_is_the_equation() -> None:
    """y = r c + γ (1 − terminated)(min_e Q'(s', a') − α log π(a'|s')), with a' from the NEXT observation."""
    agent, data, noise = make(reward_scale=0.5), batch(), torch.randn(T, B, A)
    alpha = torch.tensor([[0.1], [0.5], [2.0]])
    found = agent.critic_batch(data, alpha, noise).target
    mean, log_std = agent.actor(data.next_observation).chunk(2, -1)
    u = mean + log_std.clamp(-20, 2).exp() * noise
    log_prob = (Normal(mean, log_std.exp()).log_prob(u) - (1 - u.tanh() ** 2).log()).sum(-1)
    q = agent.target(torch.cat([data.next_observation, u.tanh()], -1))[..., 0].min(0).values
    expected = 0.5 * data.reward + 0.99 * (1 - data.terminated) * (q - alpha * log_prob)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_target_depends_on_the_next_observation_alone() -> None:
    agent, data, noise, alpha = make(), batch(terminated=0.0), torch.randn(T, B, A), torch.ones(T, 1)
    before = agent.critic_batch(data, alpha, noise).target
    moved = data._replace(observation=data.observation + 1, action=-data.action)
    assert torch.equal(agent.critic_batch(moved, alpha, noise).target, before)
    next_moved = data._replace(next_observation=data.next_observation + 1)
    assert (agent.critic_batch(next_moved, alpha, noise).target != before).all()


def test_only_termination_stops_the_bootstrap() -> None:
    """A truncated step is stored with terminated = 0 and keeps its future."""
    agent, noise, alpha = make(), torch.randn(T, B, A), torch.ones(T, 1)
    ended, going_on = batch(terminated=1.0), batch(terminated=0.0)
    assert torch.equal(agent.critic_batch(ended, alpha, noise).target, ended.reward)
    assert (agent.critic_batch(going_on, alpha, noise).target != going_on.reward).all()


def test_noise_differs_across_tasks_and_rows() -> None:
    agent = make()
    noise = agent.noise((T, B))
    assert len(noise.flatten().unique()) == noise.numel()
    observation = torch.zeros(T, 2, O)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
    action = agent.act(observation, explore=True)
    assert len(action.flatten().unique()) == action.numel()


def test_losses_are_the_equations() -> None:
    agent, data, noise = make(), batch(), torch.randn(T, B, A)
    alpha, target = torch.rand(T, 1), torch.randn(T, B)
    inputs = torch.cat([data.observation, data.action], -1)
    losses, _ = agent.critic_losses(*agent.critic.tensors, CriticBatch(inputs, target))
    q = agent.critic(inputs)[..., 0]
    torch.testing.assert_close(losses, ((q[0] - target) ** 2).mean(1) + ((q[1] - target) ** 2).mean(1))
    losses, _ = agent.actor_losses(*agent.actor.tensors, ActorBatch(data.observation, noise, alpha))
    action, log_prob = tanh_gaussian(agent.actor(data.observation), noise)
    q = agent.critic(torch.cat([data.observation, action], -1))[..., 0].min(0).values
    torch.testing.assert_close(losses, (alpha * log_prob - q).mean(1))


def test_the_actor_loss_leaves_the_critics_alone() -> None:
    agent = make()
    agent.update(batch())
    before = [p.detach().clone() for p in agent.critic.parameters()]
    agent.actor_optimizer.step(
        agent.actor_losses, ActorBatch(batch().observation, torch.randn(T, B, A), torch.ones(T, 1))
    )
    assert all(torch.equal(a, b) for a, b in zip(before, agent.critic.parameters(), strict=True))


def test_temperatures_rise_below_the_target_entropy_and_fall_above_it() -> None:
    for target, rises in ((100.0, True), (-100.0, False)):
        agent = make(target_entropy=target)
        before = agent.log_alpha.detach().clone()
        agent.update(batch())
        assert ((agent.log_alpha > before) == rises).all()


def test_targets_move_by_the_target_rate() -> None:
    agent = make(tau=0.25)
    before = [p.detach().clone() for p in agent.target.parameters()]
    agent.update(batch())
    for old, new, critic in zip(before, agent.target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(new.data, 0.75 * old + 0.25 * critic.data)


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_every_network_learns_with_and_without_surgery(network: str, surgery: str) -> None:
    """A few updates on one batch lower the critics' loss; what makes no sense is refused."""
    if network == "independent" and surgery != "none":
        with pytest.raises(ValueError, match="shares none"):
            make(surgery, network)
        return
    agent, data = make(surgery, network, learning_rate=3e-3), batch(terminated=1.0)
    losses = [agent.update(data)["critic/loss"] for _ in range(60)]
    assert all(loss.isfinite().all() for loss in losses)
    assert losses[-1].sum() < 0.5 * losses[0].sum()


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "graddrop", "cosine_regularization"])
@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_every_parameter_moves_by_its_own_gradient(network: str, surgery: str) -> None:
    """Adam's first step is −η g / (|g| + ε), element by element, however parameters and gradients lie in memory."""
    if network == "independent" and surgery != "none":
        pytest.skip("shares nothing")
    agent = make(surgery, network)
    for part, optimizer in ((agent.critic, agent.critic_optimizer), (agent.actor, agent.actor_optimizer)):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        before = {name: p.detach().clone() for name, p in part.named_parameters()}
        if part is agent.critic:
            inner = agent.critic_batch(batch(), torch.ones(T, 1))
            optimizer.step(agent.critic_losses, inner)
        else:
            optimizer.step(agent.actor_losses, ActorBatch(batch().observation, torch.randn(T, B, A), torch.ones(T, 1)))
        for name, parameter in part.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            moved = before[name] - 3e-4 * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(parameter.detach(), moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_saved_and_restored_agents_go_on_alike(surgery: str) -> None:
    agent, other = make(surgery), make(surgery, seed=9)
    for k in range(3):
        agent.update(batch(k))
    other.load_state_dict(agent.state_dict())
    for k in range(3):
        first, second = agent.update(batch(k)), other.update(batch(k))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(agent.act(torch.ones(T, 2, O), True), other.act(torch.ones(T, 2, O), True))


@dataclass
class Bandits:
    """T one-step problems on the same observations whose best actions differ; reward 1 − distance to the best."""

    shuffled: bool = False

    def best(self, observation: Tensor) -> Tensor:
        sign = torch.tensor([1.0, -1.0, 0.5]).view(T, 1, 1)
        return sign * observation[..., :A].tanh()

    def draw(self, agent: SAC, count: int, generator: torch.Generator) -> Transitions:
        observation = torch.randn(T, count, O, generator=generator)
        action = agent.act(observation, explore=True)
        reward = 1 - (action - self.best(observation)).norm(dim=-1)
        if self.shuffled:
            reward = reward[:, torch.randperm(count, generator=generator)]
        return Transitions(observation, action, reward, observation, torch.ones(T, count))


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_solves_conflicting_bandits_and_not_with_shuffled_rewards(surgery: str) -> None:
    def error(shuffled: bool) -> float:
        agent = make(surgery, learning_rate=3e-3, batch_size=64, initial_temperature=0.05, target_entropy=-6.0)
        generator = torch.Generator().manual_seed(1)
        replay, problem = ReplayBuffer(T, 5000, O, A), Bandits(shuffled)
        for _ in range(400):
            replay.add(problem.draw(agent, 10, generator))
            agent.update(replay.sample(64, generator))
        observation = torch.randn(T, 200, O, generator=generator)
        return (agent.act(observation, False) - problem.best(observation)).norm(dim=-1).mean().item()

    assert error(shuffled=False) < 0.3
    assert error(shuffled=True) > 0.5


def test_no_number_is_read_back_in_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in an update may wait for the device, sampling included."""

    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read back to the host")

    agent, replay = make("pcgrad"), ReplayBuffer(T, 50, O, A)
    replay.add(batch())
    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    agent.learn(lambda: [replay.sample(B, agent.generator)], 2)


def test_bad_options_are_refused_by_name() -> None:
    for option, value in (("gamma", 1.5), ("batch_size", 0), ("tau", 0.0), ("reduction", "max")):
        with pytest.raises(ValueError, match=f"agent.{option}"):
            AGENTS.config_class("sac")(**{option: value})


def test_initial_temperature() -> None:
    assert np.allclose(make(initial_temperature=0.3).log_alpha.detach(), math.log(0.3))
