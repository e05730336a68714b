"""RL-AUX's environment: Gymnasium's checker, the reward by hand, modes, and the fast path."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.utils.env_checker import check_env

from mtrl.agents.auxiliary.environment import AuxiliaryEnv
from mtrl.agents.auxiliary.options import Config
from mtrl.core.errors import UserError
from mtrl.data.images import normalised
from tests.support.auxiliary_problems import SIZES, environment, learner, same, tensors


@pytest.mark.parametrize("weight_aware", [False, True])
def test_gymnasiums_checker(weight_aware: bool) -> None:
    check_env(environment(weight_aware=weight_aware), skip_render_check=True)


def labels_for(env: AuxiliaryEnv, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(SIZES.auxiliary, size=count)
    return np.stack([labels, rng.integers(21, size=count)], 1) if env.options.weight_aware else labels


def play(env: AuxiliaryEnv, actions: np.ndarray, mode: str = "agent", seed: int = 3) -> tuple[list[Any], list[float]]:
    """An epoch step by step: observations and rewards."""
    seen, rewards = [env.reset(seed=seed, options={"mode": mode})[0]], []
    for k, action in enumerate(actions):
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        assert not truncated and terminated == (k == len(actions) - 1)
        seen.append(observation)
    return seen, rewards


def test_an_epoch_shows_every_image_once_and_rewards_whole_batches() -> None:
    env = environment(10)
    seen, rewards = play(env, labels_for(env, 10))
    data = env.data
    plain = normalised(data.train.pool, data.mean, data.deviation).numpy()
    shown = [int(np.abs(plain - o["image"]).sum((1, 2, 3)).argmin()) for o in seen[:-1]]
    assert sorted(shown) == list(range(10))
    assert [int(data.train.labels[0][k]) for k in shown] == [int(o["label"]) for o in seen[:-1]]
    assert [k for k, r in enumerate(rewards) if r != 0] == [3, 7, 9], "after 4, 8 and all 10 labels"


@pytest.mark.parametrize("weight_aware", [False, True])
@pytest.mark.parametrize("sign", ["spread", "paper"])
def test_the_reward_by_hand(sign: str, weight_aware: bool) -> None:
    """One batch of four: the network's step redone with plain PyTorch, then −L ± c·H on the drawn images."""
    env = environment(4, entropy_sign=sign, entropy_weight=0.5, weight_aware=weight_aware)
    env.reset(seed=3)
    images, labels = (t.clone() for t in env.batch)
    actions = labels_for(env, 4)
    network = learner().network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    network.train()
    primary, auxiliary = network(images)
    chosen = torch.from_numpy(actions[:, 0] if weight_aware else actions)
    weight = 2.0 ** (10 * torch.from_numpy(actions[:, 1]) / 20 - 5) if weight_aware else torch.ones(4)
    probability = auxiliary.softmax(1)[torch.arange(4), chosen]
    loss = F.cross_entropy(primary, labels) + (weight * -((1 - probability) ** 2) * probability.log()).mean()
    loss.backward()
    optimizer.step()
    rng = np.random.default_rng()
    rng.bit_generator.state = env.np_random.bit_generator.state
    rows = torch.from_numpy(rng.integers(4, size=5))
    network.eval()
    drawn = env.data.train.pool[rows].float() / 255
    target = env.data.train.labels[0][rows]
    with torch.no_grad():
        evaluated = float(F.cross_entropy(network((drawn - env.data.mean) / env.data.deviation)[0], target))
    share = float(target.float().mean())
    mean = [s * p for s in (1 - share, share) for p in (0.5, 0.25, 0.25)]
    entropy = -sum(p * math.log(p) for p in mean if p > 0)
    expected = -evaluated + (0.5 if sign == "spread" else -0.5) * entropy
    rewards = [env.step(action)[1] for action in actions]
    assert rewards[:3] == [0.0] * 3
    assert rewards[3] == pytest.approx(expected, abs=1e-5)


def test_agent_mode_leaves_the_main_network_bit_for_bit() -> None:
    env = environment()
    network = env.learner.network  # type: ignore[attr-defined]
    pool, labels = env.data.train.pool[:4], env.data.train.labels[0, :4]
    env.learner.train_batch(normalised(pool, env.data.mean, env.data.deviation), labels, labels, None)
    before, momentum = tensors(network), env.learner.snapshot()["optimizer"]
    play(env, labels_for(env, 10))
    assert same(before, network)
    after = env.learner.snapshot()["optimizer"]
    for key, state in momentum["state"].items():
        assert torch.equal(state["momentum_buffer"], after["state"][key]["momentum_buffer"])


def test_main_mode_keeps_what_it_trained_without_rewards() -> None:
    env = environment()
    network = env.learner.network  # type: ignore[attr-defined]
    before = tensors(network)
    _, rewards = play(env, labels_for(env, 10), mode="main")
    assert rewards == [0.0] * 10 and not same(before, network)
    trained = tensors(network)
    play(env, labels_for(env, 10, seed=1), mode="agent")
    assert same(trained, network), "the new canonical network"


def test_leaving_an_epoch_early_goes_back_as_well() -> None:
    env = environment()
    network = env.learner.network  # type: ignore[attr-defined]
    env.reset(seed=0)
    before = tensors(network)
    for action in labels_for(env, 5):
        env.step(action)
    assert not same(before, network)
    env.reset()
    assert same(before, network)


def test_a_reset_after_each_batch_starts_each_from_the_canonical_network() -> None:
    env = environment(8, reset_every="batch")
    network = env.learner.network  # type: ignore[attr-defined]
    env.reset(seed=0)
    before = tensors(network)
    for k, action in enumerate(labels_for(env, 8)):
        env.step(action)
        assert same(before, network), k


@pytest.mark.parametrize("mode", ["agent", "main"])
@pytest.mark.parametrize("weight_aware", [False, True])
def test_the_fast_path_is_the_step_by_step_environment(mode: str, weight_aware: bool) -> None:
    """The same labels: the same batches, rewards and main network, bit for bit, crops and flips included."""
    slow, fast = (environment(10, flip=True, weight_aware=weight_aware) for _ in range(2))
    actions = labels_for(slow, 10)
    seen, rewards = play(slow, actions, mode)
    fast.reset(seed=3, options={"mode": mode})
    begin, over, images, quick = 0, False, [], []
    while not over:
        images.append(fast.batch[0].numpy())
        count = len(images[-1])
        reward, over = fast.step_batch(actions[begin : begin + count])
        quick += [0.0] * (count - 1) + [reward]
        begin += count
    assert quick == rewards and begin == 10
    assert np.array_equal(np.concatenate(images), np.stack([o["image"] for o in seen[:-1]]))
    assert same(tensors(slow.learner.network), fast.learner.network)  # type: ignore[attr-defined]
    assert fast.np_random.bit_generator.state == slow.np_random.bit_generator.state


def test_action_masks_are_the_hierarchy_of_the_image_shown() -> None:
    env = environment()
    observation, _ = env.reset(seed=0)
    for action in labels_for(env, 6):
        expected = np.repeat(np.arange(2) == observation["label"], 3)
        assert np.array_equal(env.action_masks(), expected)
        observation = env.step(action)[0]


def test_bad_options_are_refused_by_name() -> None:
    refused: dict[str, Any] = {"entropy_sign": "minus", "reset_every": "step", "batch_size": 0, "reward_size": 0}
    for name, value in refused.items():
        with pytest.raises(UserError, match=f"agent.{name}"):
            Config(**{name: value})
    with pytest.raises(UserError, match="mode"):
        environment().reset(options={"mode": "both"})
