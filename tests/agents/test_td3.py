"""Multi-task TD3: its equations written out, the delay of its actor in every execution, and exact continuation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mtrl.agents.td3 import ActorBatch
from mtrl.core.types import Transitions
from mtrl.execution import runners, tracing
from mtrl.gradients import SURGERIES, WEIGHTINGS
from tests.support.learners import A, B, Experience, O, T, agent, tensors


def make(method: str = "none", **options: Any) -> Any:
    return agent(method, learner="td3", **options)


def batch(seed: int = 0) -> Transitions:
    return Experience(make()).replay.sample(B, torch.Generator().manual_seed(seed))


def test_the_target_is_the_equation() -> None:
    """y = r c + γ (1 − terminated) min_e Q'_e(s', clip(π'(s') + clip(σ ε, −c, c), −1, 1)): Algorithm 1's lines."""
    learner = make(reward_scale=0.5, target_policy_noise=0.7, target_noise_clip=0.4)
    learner.learn(Experience(learner).draw, 5)
    data, noise = batch(), torch.randn(T, B, A)
    found = learner.critic_batch(data, noise).target
    action = torch.tanh(learner.target_actor(data.next_observation))
    action = torch.clip(action + torch.clip(0.7 * noise, -0.4, 0.4), -1, 1)
    q = learner.target(torch.cat([data.next_observation, action], -1))[..., 0]
    expected = 0.5 * data.reward + 0.99 * (1 - data.terminated) * torch.minimum(q[0], q[1])
    torch.testing.assert_close(found, expected)
    assert (torch.clip(0.7 * noise, -0.4, 0.4) != 0.7 * noise).any() and data.terminated.any()


def test_the_losses_are_the_equations() -> None:
    learner, data = make(), batch()
    losses, _ = learner.actor_losses(*learner.actor.tensors, ActorBatch(data.observation))
    action = learner.actor(data.observation).tanh()
    q = learner.critic(torch.cat([data.observation, action], -1))[0, ..., 0]
    torch.testing.assert_close(losses, -q.mean(1))
    inner = learner.critic_batch(data)
    losses, _ = learner.critic_losses(*learner.critic.tensors, inner)
    q = learner.critic(torch.cat([data.observation, data.action], -1))[..., 0]
    torch.testing.assert_close(losses, (q - inner.target).square().mean(2).sum(0))


def test_exploration_has_each_tasks_noise() -> None:
    observation = torch.randn(T, 5000, O)
    learner = make(exploration_noise=[0.0, 0.02, 0.05])
    with torch.no_grad():
        for parameter in learner.actor.parameters():
            parameter.mul_(0.1)
    apart = learner.act(observation, True) - learner.act(observation, False)
    torch.testing.assert_close(apart.std((1, 2)), torch.tensor([0.0, 0.02, 0.05]), rtol=0.05, atol=1e-7)
    assert make(exploration_noise=[5.0]).act(observation, True).abs().max() == 1


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_every_dth_update_moves_actor_and_targets(delay: int) -> None:
    """However updates are bundled into calls, and after a restart."""
    learner = make(policy_delay=delay)
    data, moved = Experience(learner), []
    parts = (learner.critic, learner.actor, learner.target, learner.target_actor)

    def flat() -> list[torch.Tensor]:
        return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]

    before = flat()
    for update in range(1, 8):
        learner.learn(data.draw, 1)
        now = flat()
        moved.append([not torch.equal(a, b) for a, b in zip(before, now, strict=True)])
        assert moved[-1] == [True, *[update % delay == 0] * 3]
        before = now
        learner.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert int(learner.actor_optimizer.step_count) == 7 // delay
    bundled = make(policy_delay=delay)
    same = Experience(bundled)
    for count in (1, 3, 3):
        bundled.learn(same.draw, count)
    assert all(torch.equal(a, b) for a, b in zip(tensors(learner), tensors(bundled), strict=True))


def test_targets_move_by_the_target_rate() -> None:
    learner = make(tau=0.25)
    pairs = ((learner.critic, learner.target), (learner.actor, learner.target_actor))
    before = [[p.detach().clone() for p in target.parameters()] for _, target in pairs]
    learner.update(batch())
    for (network, target), old in zip(pairs, before, strict=True):
        for was, now, new in zip(old, target.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(now.data, 0.75 * was + 0.25 * new.data)


def test_imitation_moves_the_targets_and_does_not_count_as_updates() -> None:
    """A run that has started from another policy goes on exactly, with the same updates of the actor."""
    one, other, data = make(policy_delay=3), make(policy_delay=3, seed=9), batch()
    before = [p.detach().clone() for p in one.target_actor.parameters()]
    one.imitate(data, data.action, data.reward)
    assert not any(torch.equal(a, b) for a, b in zip(before, one.target_actor.parameters(), strict=True))
    experiences = Experience(one), Experience(other)
    one.learn(experiences[0].draw, 2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner, experience in zip((one, other), experiences, strict=True):
        learner.learn(experience.draw, 2)
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert int(one.actor_optimizer.step_count) == 2


def test_imitated_values_are_scaled_as_the_agents_rewards_are(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make(reward_scale=0.5, normalise_rewards=True)
    learner.learn(Experience(learner).draw, 1)
    learner._normalisers["reward"]._scale.copy_(torch.linspace(0.1, 2, T).unsqueeze(1))
    data, seen = batch(), list[Any]()
    monkeypatch.setattr(learner, "step_critics", lambda batches, *_, **__: seen.extend(batches))
    learner.imitate(data, data.action, data.reward)
    still = data._replace(terminated=torch.ones_like(data.terminated))
    torch.testing.assert_close(seen[0].target, learner.critic_batch(learner.prepare(still)).target)
    assert not torch.allclose(seen[0].target, data.reward)


def test_metrics_of_the_actor_stay_until_its_next_update() -> None:
    learner = make()
    data = Experience(learner)
    assert not any(name.startswith("actor/") for name in learner.learn(data.draw, 1))
    second = learner.learn(data.draw, 1)
    third = learner.learn(data.draw, 1)
    assert torch.equal(second["actor/loss"], third["actor/loss"])
    assert not torch.equal(second["critic/loss"], third["critic/loss"])


METHODS = [*WEIGHTINGS.kinds, *(kind for kind in SURGERIES.kinds if kind != "none")]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_and_goes_on_exactly(method: str, tmp_path: Any) -> None:
    """From a state between two updates of the actor."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    if method == "softmax_temperature":
        with pytest.raises(ValueError, match="used by an agent that has log_alpha"):
            make(method)
        return
    one, other = make(method), make(method, seed=9)
    data, same = Experience(one), Experience(other)
    one.learn(data.draw, 3)
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for count in (1, 2, 1):
        one.learn(data.draw, count)
        other.learn(same.draw, count)
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert all(t.isfinite().all() for t in tensors(one) if t.is_floating_point())


@pytest.mark.parametrize(("network", "method"), [("mlp", "none"), ("multi_head", "pcgrad"), ("mint", "auto_lambda")])
def test_graphs_of_both_kinds_of_updates_are_the_plain_updates(
    network: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `execution=compiled`, with the graphs run operation by operation."""
    monkeypatch.setattr(tracing, "_compile", lambda graph, _: graph)
    monkeypatch.setattr(runners, "_check_compiler", lambda _: None)
    plain, other = make(method, network=network, execution="plain"), make(method, network=network, execution="compiled")
    data, same = Experience(plain), Experience(other)
    for count in (1, 3, 2):
        plain.learn(data.draw, count)
        other.learn(same.draw, count)
        data.grow(30)
        same.grow(30)
    for a, b in zip(tensors(plain), tensors(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bad_options_are_refused_by_name() -> None:
    bad: dict[str, Any] = {"policy_delay": 0, "exploration_noise": [0.1, 0.2], "target_policy_noise": -1.0}
    for option, value in {**bad, "target_noise_clip": -0.1}.items():
        with pytest.raises(ValueError, match=f"agent.{option}"):
            make(**{option: value})
