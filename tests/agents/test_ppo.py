"""PPO: its equations written out in float64, its schedules, and every network under it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mtrl.agents import AGENTS
from mtrl.agents.advantages import generalised_advantages
from mtrl.agents.ppo import OUTPUT_SCALE, ActorBatch, CriticBatch
from mtrl.core.cores import torch_threads
from mtrl.core.errors import UserError
from mtrl.gradients import WEIGHTINGS, Methods
from mtrl.networks import NETWORKS
from mtrl.networks.layers import Linear
from tests.support.on_policy import A, N, O, R, T, make, rollout, state


def test_advantages_are_the_sum_written_out() -> None:
    """Σ (γλ)^k δ within each episode, in float64, across terminations and truncations."""
    g = torch.Generator().manual_seed(0)
    reward, value, successor = (torch.randn(T, R, N, generator=g, dtype=torch.float64) for _ in range(3))
    terminated = (torch.rand(T, R, N, generator=g) < 0.1).double()
    ended = torch.maximum(terminated, (torch.rand(T, R, N, generator=g) < 0.1).double())
    found = generalised_advantages(reward, value, successor, terminated, ended, gamma=0.9, gae_lambda=0.8)
    for t, start, n in np.ndindex(T, R, N):
        total = 0.0
        for k in range(R - start):
            place = t, start + k, n
            future = 0.0 if terminated[place] else successor[place].item()
            total += (0.9 * 0.8) ** k * (reward[place].item() + 0.9 * future - value[place].item())
            if ended[place]:
                break
        assert found[t, start, n].item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_actors_loss_and_gradient_are_the_papers(entropy: float) -> None:
    """Against the surrogate written with torch's own distributions in float64, clipped on either side."""
    agent = make(entropy_coefficient=entropy)
    agent.actor.double()
    agent.max_log_std = agent.max_log_std.double()
    g = torch.Generator().manual_seed(1)
    shape = (T, 30)
    observation, action = (torch.randn(*shape, size, generator=g, dtype=torch.float64) for size in (O, A))
    log_prob, advantage = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    log_prob = agent.log_prob(agent.actor(observation), action).detach() + 0.3 * log_prob
    losses, metrics = agent.actor_losses(*agent.actor.tensors, ActorBatch(observation, action, log_prob, advantage))
    ours = torch.autograd.grad(losses.sum(), list(agent.actor.parameters()))

    mean, log_std = agent.actor(observation).chunk(2, -1)
    policy = Normal(mean, log_std.clamp(np.log(0.1), np.log(0.6)).exp())
    ratio = (policy.log_prob(action).sum(-1) - log_prob).exp()
    surrogate = torch.where(advantage > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8)) * advantage
    expected = -surrogate.mean(1) - entropy * policy.entropy().sum(-1).mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(ours, torch.autograd.grad(expected.sum(), list(agent.actor.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
    assert 0.1 < metrics["clipped"].mean() < 0.9 and (metrics["kl"] > 0).all()


def test_the_divergence_is_that_of_the_distributions() -> None:
    """Its estimate on samples of the old policy, against the closed form."""
    agent = make()
    observation = torch.zeros(T, 20_000, O)
    output = agent.actor(observation).detach()
    mean, log_std = agent.distribution(output)
    action = mean + log_std.exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    before = agent.log_prob(output, action)
    with torch.no_grad():
        for name, parameter in agent.actor.own.items():
            if name.endswith("log_std"):
                parameter -= 0.2
    _, metrics = agent.actor_losses(
        *agent.actor.tensors, ActorBatch(observation, action, before, torch.zeros_like(before))
    )
    exact = kl_divergence(Normal(mean, log_std.exp()), Normal(mean, (log_std - 0.2).exp())).sum(-1).mean(1)
    torch.testing.assert_close(metrics["kl"].detach(), exact, rtol=0.05, atol=0.0)


def test_the_critics_target_is_the_return_and_its_loss_the_squared_error() -> None:
    agent = make(popart=False, normalise_observations="none", gamma=0.9, gae_lambda=1.0)
    data = rollout(agent)
    value = agent.head.value(agent.critic(data.observation.flatten(1, 2))).view(T, R, N)
    after = agent.head.value(agent.critic(data.next_observation.flatten(1, 2))).view(T, R, N)
    seen: list[CriticBatch] = []
    losses = agent.critic_losses
    agent.critic_losses = lambda *given: (seen.append(given[3]), losses(*given))[1]  # type: ignore[method-assign]
    agent.learn(data, 0.0)
    expected = generalised_advantages(data.reward, value, after, data.terminated, data.ended, gamma=0.9, gae_lambda=1.0)
    targets = torch.cat([batch.target for batch in seen[:3]], 1).sort(1).values
    torch.testing.assert_close(targets, (expected + value).flatten(1).sort(1).values, rtol=1e-4, atol=1e-3)


def test_an_episode_that_ends_solved_may_be_worth_its_last_reward_for_ever() -> None:
    """The advantages with the sum of all further rewards written out, in float64, in place of the critic's value."""
    agent = make(normalise_observations="none", popart=False, gamma=0.9, success_value="last_reward", minibatches=1)
    data = rollout(agent, ends=0.2)
    data.success = torch.maximum(data.success, (torch.rand(data.success.shape) < 0.5).float())
    truncated = data.ended * (1 - data.terminated)
    cases = [(truncated * solved).sum() for solved in (data.success, 1 - data.success)]
    assert min(cases) > 0 and (data.success * (1 - data.ended)).sum() > 0, "the rollout has all cases"
    value, after = (
        agent.head.value(agent.critic(x.flatten(1, 2))).view(T, R, N) for x in (data.observation, data.next_observation)
    )
    forever = data.reward.double() * sum(0.9**k for k in range(2000))
    successor = torch.where((truncated * data.success).bool(), forever, after.double())
    seen: list[CriticBatch] = []
    losses = agent.critic_losses
    agent.critic_losses = lambda *given: (seen.append(given[3]), losses(*given))[1]  # type: ignore[method-assign]
    agent.learn(data, 0.0)
    expected = value + generalised_advantages(
        data.reward, value, successor, data.terminated, data.ended, gamma=0.9, gae_lambda=0.95
    )
    found = seen[0].target.sort(1).values
    torch.testing.assert_close(found, expected.flatten(1).sort(1).values.float(), rtol=1e-4, atol=1e-3)


def test_correlated_noise_is_standard_normal_and_has_the_correlation() -> None:
    """The first, third, ... environment of a task has the first value, and the others have the second."""
    agent = make(noise_correlation=[0.9, 0.0])
    noise = torch.stack([agent.noise((T, 4000)) for _ in range(30)])
    assert abs(noise[-1].mean()) < 0.03 and abs(noise[-1].std() - 1) < 0.03
    for first, correlation in ((0, 0.9), (1, 0.0)):
        own = noise[:, :, first::2]
        for start, end in ((28, 29), (5, 7)):
            found = torch.corrcoef(own[[start, end]].flatten(1))[0, 1].item()
            assert found == pytest.approx(correlation ** (end - start), abs=0.03)
        entries = torch.corrcoef(own[-1].flatten(0, 1).T)
        torch.testing.assert_close(entries, torch.eye(A), rtol=0, atol=0.06, msg="entries are independent")


def test_an_update_begins_at_a_ratio_of_one_whatever_the_statistics() -> None:
    """The old log-probabilities are those of the observations as the update normalises them."""
    agent = make(epochs=1, minibatches=1, learning_rate=1e-12)
    metrics, updates = agent.learn(rollout(agent), 0.0)
    assert updates == 1 and metrics["actor/kl"].abs().max() < 1e-6 and metrics["actor/clipped"].max() == 0


@pytest.mark.parametrize("scale", ["largest", "present"])
def test_advantages_are_scaled_by_task(scale: str) -> None:
    """By the rollout's deviation, or by the largest so far, which a quiet rollout does not lower."""
    agent = make(advantage_scale=scale, learning_rate=1e-12, normalise_observations="none", popart=False)
    loud, quiet = rollout(agent, 1), rollout(agent, 2)
    quiet.reward *= 0.01
    agent.learn(loud, 0.0)
    first = agent.advantage_deviation.clone()
    agent.learn(quiet, 0.0)
    assert (first.diff(dim=0) > 0).all(), "the tasks' rewards are of unlike scale"
    assert torch.equal(agent.advantage_deviation, first) == (scale == "largest")


def test_passes_stop_at_the_divergence_bound() -> None:
    lax, strict = (make(epochs=5, target_kl=bound, learning_rate=1e-2) for bound in (None, 1e-6))
    assert lax.learn(rollout(lax), 0.0)[1] == 15
    assert strict.learn(rollout(strict), 0.0)[1] == 3


def test_schedules_are_linear_in_progress() -> None:
    stds: dict[str, Any] = {"max_std": 0.5, "initial_std": 0.9, "final_max_std": 0.1, "min_std": 0.05}
    agent = make(learning_rate=1e-3, final_learning_rate=0.2, **stds)
    for progress, rate, std in ((0.0, 1e-3, 0.5), (0.5, 6e-4, 0.3), (1.0, 2e-4, 0.1)):
        agent.learn(rollout(agent), progress)
        assert agent.actor_optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        deviation = agent.distribution(agent.actor(torch.zeros(T, 1, O)))[1].exp()
        assert deviation.max().item() == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_every_network_learns_and_owns_its_deviations(network: str) -> None:
    agent = make(network)
    before = copy.deepcopy(agent.actor.state_dict())
    metrics, _ = agent.learn(rollout(agent), 0.0)
    moved = [name for name, value in agent.actor.state_dict().items() if not torch.equal(value, before[name])]
    assert any("log_std" in name for name in moved)
    assert all(value.isfinite().all() for value in metrics.values())
    assert agent.act(torch.zeros(T, 2, O), explore=False).abs().max() < 0.2, "the first actions are near zero"


def test_actor_and_critic_have_methods_of_their_own() -> None:
    chosen = Methods(surgery=Methods.of("pcgrad").surgery, critic_surgery=Methods.of("none").surgery)
    metrics, _ = (agent := make(methods=chosen)).learn(rollout(agent), 0.0)
    assert "actor/cosine" in metrics and "critic/cosine" not in metrics


@pytest.mark.parametrize("kind", [kind for kind in WEIGHTINGS.kinds if kind != "softmax_temperature"])
def test_every_weighting_works(kind: str) -> None:
    """All but the one that reads SAC's temperatures. One that looks ahead sees another minibatch of the same pass."""
    agent = make(methods=Methods.of(kind))
    metrics, _ = agent.learn(rollout(agent), 0.0)
    assert metrics["actor/weight"].isfinite().all() and metrics["critic/weight"].isfinite().all()


@pytest.mark.parametrize("methods", ["none", "pcgrad", "uncertainty", "auto_lambda", "mgda"])
def test_two_cores_give_the_numbers_of_one(methods: str) -> None:
    """Both where the actor steps beside the critic, and where it waits for the critic."""
    ends = []
    for threads in (1, 2):
        agent = make(methods=Methods.of(methods))
        with torch_threads(threads):
            agent.learn(rollout(agent), 0.5)
        ends.append(torch.cat([p.detach().flatten() for n in (agent.actor, agent.critic) for p in n.parameters()]))
    assert torch.equal(*ends)


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    options: dict[str, Any] = {"normalise_rewards": True, "noise_correlation": [0.9]}
    one, other = make(**options), make(seed=5, **options)
    one.learn(rollout(one, 1), 0.1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        learner.learn(rollout(learner, 2), 0.2)
    assert all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_range": 0.0}, "agent.clip_range"),
        ({"epochs": 0}, "agent.epochs"),
        ({"noise_correlation": [0.5, 1.0]}, "agent.noise_correlation"),
        ({"noise_correlation": []}, "agent.noise_correlation"),
        ({"success_value": "last_reward", "gamma": 1.0}, "agent.gamma.*below 1"),
        ({"advantage_scale": "none"}, "agent.advantage_scale"),
        ({"max_std": 0.01}, r"`agent.max_std` should be at least agent.min_std \(0.1\)"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AGENTS.config_class("ppo")(**options)


@pytest.mark.parametrize(("network", "options"), [("multi_head", {"width": A}), ("care", {"encoders": A})])
def test_only_the_output_layer_starts_small(network: str, options: dict[str, int]) -> None:
    """Some hidden layers have as many outputs as an action: a layer of this width, or the attention over encoders."""
    config = NETWORKS.config_class(network)(**options)
    found, agent = NETWORKS.build(config, input_size=O, output_size=A), make(network)
    torch.manual_seed(0)
    plain = found(torch.eye(T)[0])
    torch.manual_seed(0)
    small = next(agent.wrap_actor(found)(torch.eye(T)[0]).children())
    *hidden, _ = plain.children()
    for layer, other in zip(hidden, small.children(), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    output, scaled = ([*module.children()][-1].state_dict() for module in (plain, small))
    assert all(torch.equal(scaled[name], OUTPUT_SCALE * output[name]) for name in output if name.endswith("weight"))


@pytest.mark.parametrize("output_mint", [False, True])
def test_a_layer_after_the_output_layer_does_not_hide_it(output_mint: bool) -> None:
    config = NETWORKS.config_class("mint")(width=16, output_mint=output_mint)
    network = NETWORKS.build(config, input_size=O, output_size=A)(torch.eye(T)[0])
    (output,) = (layer for layer in network.modules() if isinstance(layer, Linear) and len(layer.weight) == A)
    before = output.weight.detach().clone()
    make().wrap_actor(lambda code: network)(torch.eye(T)[0])
    torch.testing.assert_close(output.weight, OUTPUT_SCALE * before, rtol=0, atol=0)


def test_output_layers_of_shared_parameter_sets_start_small() -> None:
    config = NETWORKS.config_class("paco")(width=16)
    network = NETWORKS.build(config, input_size=O, output_size=A)(torch.eye(T)[0])
    before = network.layers[-1].weight.detach().clone()  # type: ignore[union-attr, index]
    make().wrap_actor(lambda code: network)(torch.eye(T)[0])
    assert torch.equal(network.layers[-1].weight, OUTPUT_SCALE * before)  # type: ignore[union-attr, index]


def test_a_network_of_one_layer_starts_small() -> None:
    torch.manual_seed(0)
    layer = Linear(O, A)
    before = layer.weight.detach().clone()
    make().wrap_actor(lambda code: layer)(torch.eye(T)[0])
    torch.testing.assert_close(layer.weight, OUTPUT_SCALE * before, rtol=0, atol=0)
