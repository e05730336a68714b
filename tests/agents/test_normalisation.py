"""Running normalisation: NumPy's statistics, in acting and learning, kept with the agent and frozen in a policy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mtrl
from mtrl.agents.normalisation import NormalisationConfig, ObservationNormaliser, RewardNormaliser
from mtrl.cli import main
from mtrl.core.subset import SomeTasks
from mtrl.core.types import Transitions
from mtrl.experiment.load import load
from tests.support.learners import Experience, O, T, agent

N, CPU = 4, torch.device("cpu")
BOTH = {"normalise_observations": "per_task", "normalise_rewards": True}


def new(k: int, tasks: int = T, ends: float = 0.0) -> Transitions:
    """One step of N copies; every task and entry has a mean and a scale of its own."""
    g = torch.Generator().manual_seed(k)
    scale = 10.0 ** torch.arange(tasks).view(-1, 1, 1) * torch.arange(1.0, O + 1)
    observation = scale * (torch.randn(tasks, N, O, generator=g) + 3)
    terminated, truncated = torch.rand(2, tasks, N, generator=g) < ends
    reward = torch.randn(tasks, N, generator=g) * scale[..., 0]
    return Transitions(observation, observation[..., :2], reward, observation, terminated, truncated=truncated)


@pytest.mark.parametrize("kind", ["shared", "per_task"])
def test_observations_have_numpys_moments(kind: str) -> None:
    config = NormalisationConfig(normalise_observations=kind)
    normaliser, steps = ObservationNormaliser(config, T, O, CPU), [new(k) for k in range(20)]
    for step in steps:
        normaliser.observe(step)
    seen = torch.cat([s.observation for s in steps], 1).double()
    axes = (0, 1) if kind == "shared" else (1,)
    mean, deviation = (f(seen.numpy(), axis=axes, keepdims=True) for f in (np.mean, np.std))
    found = normaliser(steps[0].observation)
    np.testing.assert_allclose(found, (steps[0].observation.numpy() - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_entries_are_clipped_and_deviations_have_a_least() -> None:
    config = NormalisationConfig(normalise_observations="shared", observation_clip=3.0, min_deviation=0.5)
    normaliser = ObservationNormaliser(config, T, O, CPU)
    constant = torch.full((T, N, O), 7.0)
    normaliser.observe(new(0)._replace(observation=constant))
    assert torch.equal(normaliser(constant), torch.zeros(T, N, O))
    torch.testing.assert_close(normaliser(constant + 1), torch.full((T, N, O), 2.0))
    assert torch.equal(normaliser(constant - 100), torch.full((T, N, O), -3.0))


@pytest.mark.parametrize("kind", ["shared", "per_task"])
def test_outliers_hardly_move_the_statistics(kind: str) -> None:
    """An object is flung 10,000 deviations away in one entry of one copy. With the option, others are seen as before,
    and without it they are not. Where there are no outliers, the option changes nothing."""
    plain, kept = (
        ObservationNormaliser(
            NormalisationConfig(normalise_observations=kind, observation_outliers=outliers), T, O, CPU
        )
        for outliers in (None, 10.0)
    )
    for k in range(250):
        plain.observe(new(k))
        kept.observe(new(k))
    ordinary = new(1000).observation
    before = kept(ordinary)
    assert torch.equal(before, plain(ordinary))
    flung = new(1001)
    flung.observation[0, 0, 1] += 1e4 * flung.observation[0, :, 1].std()
    plain.observe(flung)
    kept.observe(flung)
    torch.testing.assert_close(kept(ordinary), before, rtol=0.06, atol=0.06)
    if kind == "per_task":
        assert plain(ordinary)[0, :, 1].std() < 0.05 * before[0, :, 1].std()


def test_nothing_seen_changes_nothing() -> None:
    config = NormalisationConfig(normalise_observations="per_task", normalise_rewards=True)
    x = torch.randn(T, N, O)
    assert torch.equal(ObservationNormaliser(config, T, O, CPU)(x), x)
    assert torch.equal(RewardNormaliser(config, T, 0.9, CPU)(x[..., 0]), x[..., 0])


def test_rewards_are_divided_by_the_deviation_of_discounted_returns() -> None:
    normaliser, steps = RewardNormaliser(NormalisationConfig(), T, 0.9, CPU), [new(k, ends=0.2) for k in range(50)]
    returns, seen = np.zeros((T, N)), []
    for step in steps:
        normaliser.observe(step)
        returns = 0.9 * returns + step.reward.double().numpy()
        seen.append(returns)
        assert step.truncated is not None
        returns = np.where(step.terminated | step.truncated, 0.0, returns)
    deviation = np.concatenate(seen, 1).std(1, keepdims=True)
    np.testing.assert_allclose(normaliser(steps[0].reward), steps[0].reward.numpy() / deviation, rtol=1e-5)


def test_restored_returns_follow_the_rewards_to_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here to the device without data."""
    one, other = (RewardNormaliser(NormalisationConfig(), T, 0.9, CPU) for _ in range(2))
    one.observe(new(0))
    other.load_state_dict(one.state_dict())
    monkeypatch.setattr(other.moments, "add", lambda *_: None)
    flags = torch.zeros(2, T, N, dtype=torch.bool, device="meta")
    other.observe(new(1)._replace(reward=flags[0].float(), terminated=flags[0], truncated=flags[1]))
    assert other._returns.device.type == "meta"


def test_tasks_that_take_turns_have_their_own_statistics() -> None:
    """As if each had been alone."""
    config = NormalisationConfig(normalise_observations="per_task")
    observation, reward = ObservationNormaliser(config, 4, O, CPU), RewardNormaliser(config, 4, 0.9, CPU)
    alone = [(ObservationNormaliser(config, 1, O, CPU), RewardNormaliser(config, 1, 0.9, CPU)) for _ in range(4)]

    def part(step: Transitions, row: int) -> Transitions:
        return Transitions(*(x[row : row + 1] for x in step[:5]), truncated=step.truncated[row : row + 1])  # type: ignore[index]

    for k, task in enumerate([[0, 2], [3, 1], [2, 0], [2, 3]]):
        subset = SomeTasks(torch.tensor(task), torch.zeros(2, 4))
        ended = torch.ones(2, N, dtype=torch.bool)
        step = new(k, tasks=2)._replace(subset=subset, truncated=ended)
        for normaliser in (observation, reward):
            normaliser.observe(step)
        for row, t in enumerate(task):
            for normaliser in alone[t]:
                normaliser.observe(part(step, row))
        for row, t in enumerate(task):
            found = observation(step.observation, subset)[row]
            torch.testing.assert_close(found, alone[t][0](step.observation[row])[0])
            torch.testing.assert_close(reward(step.reward, subset)[row], alone[t][1](step.reward[row])[0])


def test_acting_and_learning_see_normalised_observations_and_rewards() -> None:
    """An agent that normalises equals one that is given normalised data: same actions, same parameters."""
    plain, normal = agent(), agent(**BOTH)
    for k in range(5):
        normal.observe(new(k))
    data = Experience(plain).replay.sample(8, torch.Generator().manual_seed(0))
    prepared = normal.prepare(data)
    assert (prepared.observation != data.observation).all() and (prepared.reward != data.reward).all()
    assert torch.equal(normal.act(data.observation, False), plain.act(prepared.observation, False))
    first, second = plain.update(prepared), normal.update(data)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a, b) for a, b in zip(plain.actor.parameters(), normal.actor.parameters(), strict=True))


def test_updates_see_new_statistics_at_fixed_places() -> None:
    """A captured update reads the tensors that it was captured with."""
    learner = agent(**BOTH)
    held = [t for n in learner._normalisers.values() for t in vars(n).values() if isinstance(t, Tensor)]
    places, values = [t.data_ptr() for t in held[:2]], [t.clone() for t in held[:2]]
    learner.observe(new(0))
    assert [t.data_ptr() for t in held[:2]] == places
    assert all(not torch.equal(a, b) for a, b in zip(held, values, strict=False))


@pytest.mark.parametrize("kind", ["shared", "per_task"])
def test_a_restored_agent_goes_on_alike(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"normalise_observations": kind, "normalise_rewards": True}
    one, other = agent(**options), agent(seed=9, **options)
    data, same = Experience(one), Experience(other)
    for _ in range(3):
        data.grow(10)
        same.grow(10)
        one.learn(data.draw, 1)
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(3):
        data.grow(10)
        same.grow(10)
        first, second = one.learn(data.draw, 1), other.learn(same.draw, 1)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one.act(torch.ones(T, 2, O), True), other.act(torch.ones(T, 2, O), True))


def test_a_run_normalises_what_it_stores_and_its_policy_is_frozen(elsewhere: Path) -> None:
    run = [
        "train",
        "benchmark=toy",
        "device=cpu",
        "network.width=8",
        "agent.batch_size=4",
        "training.learning_starts=5",
    ]
    run += ["training.final_episodes=2", "experiment=x", "agent.normalise_rewards=true"]
    assert main([*run, "steps=40", "agent.normalise_observations=per_task"]) == 0
    policy = mtrl.load_policy("runs/toy/x/seed_1")
    made = load("runs/toy/x/seed_1")[0].agent
    moments = made._normalisers["observation"].moments
    assert moments.count.tolist() == [40.0] * 4 and (moments.variance > 0).all()
    before = copy.deepcopy(moments.state_dict())
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    action = policy.act(x, 2)
    normal = ((torch.from_numpy(x) - moments.mean[2]) / moments.variance[2].sqrt().clamp(min=0.01)).clamp(-10, 10)
    network = made.actor(normal.float().expand(4, 3, 6))[2]
    np.testing.assert_allclose(action, network.chunk(2, -1)[0].tanh().detach(), atol=1e-5)
    assert all(torch.equal(moments.state_dict()[name], value) for name, value in before.items())


def test_bad_options_are_refused_by_name() -> None:
    bad = {"normalise_observations": "yes", "observation_clip": 0.0, "min_deviation": 0.0, "observation_outliers": 0.0}
    for option, value in bad.items():
        with pytest.raises(ValueError, match=f"agent.{option}"):
            agent(**{option: value})
