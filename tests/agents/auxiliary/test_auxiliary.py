"""RL-AUX's agent, MAXL and the given labels, each by itself and in the whole agent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents.auxiliary.maxl import MAXLLabels
from mtrl.agents.auxiliary.options import Config, MAXLConfig, PPOConfig
from mtrl.core.errors import UserError
from mtrl.data.images import Epochs, ImageBatch
from mtrl.execution import runners
from tests.support.auxiliary_problems import SIZES, agent, data, learner, make_trunk, same, tensors

pytest.importorskip("stable_baselines3", reason="the extra `aux` is not installed")
PPO = {"rollout_size": 8, "epochs": 2, "minibatch": 4, "features": 6}


def ppo(**options: Any) -> Any:
    return PPOConfig(**{**PPO, **options})


def maxl(weight_aware: bool = False, focusing: float = 2.0, **options: Any) -> MAXLLabels:
    main = learner(primary_focusing=focusing)
    main.network.double()
    config = Config(method="maxl", maxl=MAXLConfig(**options), weight_aware=weight_aware, batch_size=4)
    made = MAXLLabels(config, main, SIZES, make_trunk, 5, device=torch.device("cpu"), seed=0)
    made.network.double()
    return made


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 1, 4, 4, dtype=torch.float64, generator=generator)
    return images, torch.randint(2, (count,), generator=generator)


def primary_by_hand(logits: Tensor, target: Tensor, focusing: float) -> Tensor:
    cross_entropy = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-cross_entropy).exp()) ** focusing * cross_entropy).mean()


def meta_loss_by_hand(labels: MAXLLabels, images: Tensor, target: Tensor, rate: float, c: float, γ: float) -> float:
    """The primary loss after one plain SGD step with the label network's labels, minus c times their entropy."""
    with torch.no_grad():
        labels.network.train()
        probability, weight = labels.network(images, target)
    main = labels.learner.network
    before = [p.detach().clone() for p in main.parameters()]
    main.train()
    primary, auxiliary = main(images)
    log = auxiliary.log_softmax(1)
    focal = -(probability * (1 - log.exp()) ** 2 * log).sum(1)
    loss = primary_by_hand(primary, target, γ) + (focal if weight is None else weight * focal).mean()
    gradients = torch.autograd.grad(loss, list(main.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(main.parameters(), gradients, strict=True):
            parameter -= rate * gradient
        after = primary_by_hand(main(images)[0], target, γ)
        for parameter, old in zip(main.parameters(), before, strict=True):
            parameter.copy_(old)
    mean = probability.mean(0)
    return float(after + c * (mean * mean.log()).sum())


@pytest.mark.parametrize("focusing", [0.0, 2.0])
@pytest.mark.parametrize("weight_aware", [False, True])
def test_maxls_label_gradient_is_the_numerical_derivative(weight_aware: bool, focusing: float) -> None:
    labels = maxl(weight_aware, focusing, learning_rate=1.0, weight_decay=0.0, inner_rate=0.5, entropy_weight=0.2)
    images, target = batch()
    parameters = list(labels.network.parameters())
    before = [p.detach().clone() for p in parameters]
    loss = labels.update(images, target)
    exact = [b - p.detach() for b, p in zip(before, parameters, strict=True)]  # a step of rate 1
    assert any(g.abs().max() > 1e-6 for g in exact)

    def at(shift: float, direction: list[Tensor]) -> float:
        with torch.no_grad():
            for parameter, old, d in zip(parameters, before, direction, strict=True):
                parameter.copy_(old + shift * d)
        return meta_loss_by_hand(labels, images, target, 0.5, 0.2, focusing)

    zero = [torch.zeros_like(p) for p in parameters]
    assert float(loss) == pytest.approx(at(0.0, zero), abs=1e-10)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
        numerical = (at(1e-5, direction) - at(-1e-5, direction)) / 2e-5
        product = sum(float((g * d).sum()) for g, d in zip(exact, direction, strict=True))
        assert product == pytest.approx(numerical, rel=1e-5, abs=1e-8)


def test_maxl_has_the_focal_primary_loss_of_its_authors_and_the_others_the_cross_entropy() -> None:
    images = data(12)
    batch = Epochs(images, 12, 0).batch(0)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"method": "maxl"}, 2), ({"method": "none"}, 0), ({"primary_focusing": 1.0}, 1),
    ]  # fmt: skip
    for options, focusing in cases:
        made = agent(**options)
        found = made.learner.evaluate(batch.images[0], batch.labels[0])
        with torch.no_grad():
            wanted = primary_by_hand(made.learner.network(batch.images[0])[0], batch.labels[0], focusing)
        torch.testing.assert_close(found, wanted)


def test_the_rate_of_maxls_label_network_halves_every_fifty_epochs() -> None:
    made, images = agent(method="maxl", maxl=MAXLConfig(learning_rate=0.8)), data(12)
    rates = []
    for epoch in (0, 49, 50, 99, 100):
        made.train_labels(images, epoch)
        rates.append(made.labels.optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.2]


def test_a_batch_of_one_class_has_a_finite_gradient() -> None:
    """Labels of the other class have no probability at all, whose entropy has an infinite slope."""
    labels = maxl()
    labels.update(batch()[0], torch.zeros(6, dtype=torch.int64))
    assert all(p.isfinite().all() for p in labels.network.parameters())


def test_an_update_of_the_label_network_leaves_the_main_network_alone() -> None:
    labels = maxl()
    before = tensors(labels.learner.network)
    labels.update(*batch())
    assert same(before, labels.learner.network)


def test_maxls_labels_obey_the_hierarchy() -> None:
    labels = maxl(weight_aware=True)
    images, target = batch()
    probability, weight = labels.assign(ImageBatch(images.unsqueeze(0), target.unsqueeze(0)))
    assert weight is not None and ((weight >= 1 / 32) & (weight <= 32)).all()
    torch.testing.assert_close(probability.sum(1), torch.ones(6, dtype=torch.float64))
    for row, label in zip(probability, target.tolist(), strict=True):
        assert not row[[k for k in range(6) if k // 3 != label]].any()


@pytest.mark.parametrize("engine", ["batched", "steps"])
@pytest.mark.parametrize("weight_aware", [False, True])
def test_an_epoch_of_the_label_agent_moves_it_and_not_the_main_network(
    engine: str, weight_aware: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made, images = agent(engine=engine, weight_aware=weight_aware, ppo=ppo()), data(12)
    made.prepare(images)
    before, policy = tensors(made.learner.network), tensors(made.labels.policy)  # type: ignore[attr-defined]
    metrics = made.train_labels(images, 0)
    assert same(before, made.learner.network)
    assert not same(policy, made.labels.policy)  # type: ignore[attr-defined]
    assert metrics["label/reward"].isfinite()
    assert not list(tmp_path.iterdir()), "an epoch leaves files behind"


@pytest.mark.parametrize("weight_aware", [False, True])
def test_the_policys_labels_obey_the_hierarchy(weight_aware: bool) -> None:
    made, images = agent(weight_aware=weight_aware, ppo=ppo()), data(12)
    made.prepare(images)
    policy = made.labels.policy  # type: ignore[attr-defined]
    shown, labels = Epochs(images, 12, 0).batch(0)[:2]
    probability = made.labels.label_probabilities(shown[0], labels[0])  # type: ignore[attr-defined]
    torch.testing.assert_close(probability.sum(1), torch.ones(12))
    allowed = torch.arange(6) // 3 == labels[0].unsqueeze(1)
    assert not probability[~allowed].any() and (probability[allowed] > 0).all()
    for _ in range(5):
        drawn = policy({"image": shown[0], "label": labels[0]})[0].view(12, -1)[:, 0]
        assert (drawn // 3 == labels[0]).all()
    chosen, weight = made.labels.assign(ImageBatch(shown, labels))
    assert chosen is not None
    assert torch.equal(chosen, probability.argmax(1)) and (weight is not None) == weight_aware


def rollout(made: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rollout buffer of one epoch in which the policy takes its likeliest labels."""
    made.prepare(images)
    model = made.labels.model
    plain = model.policy.forward
    monkeypatch.setattr(model.policy, "forward", lambda obs, deterministic=False: plain(obs, deterministic=True))
    monkeypatch.setattr(model, "train", lambda: None)
    made.train_labels(images, 0)
    return model.rollout_buffer


@pytest.mark.parametrize("weight_aware", [False, True])
def test_the_batched_rollout_is_the_step_by_step_one(weight_aware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the policy learns from: images, labels, rewards, values, advantages and returns."""
    images = data(12, flip=True)
    options = {"weight_aware": weight_aware, "ppo": ppo(rollout_size=12)}
    slow, fast = (rollout(agent(engine=engine, **options), images, monkeypatch) for engine in ("steps", "batched"))
    for key in ("image", "label"):
        assert np.array_equal(slow.observations[key], fast.observations[key].reshape(slow.observations[key].shape))
    for name in ("actions", "rewards", "episode_starts"):
        np.testing.assert_allclose(getattr(slow, name), getattr(fast, name), atol=1e-6)
    for name in ("values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(getattr(slow, name), getattr(fast, name), atol=1e-4)


def test_a_new_policy_is_the_old_one_before_its_first_update() -> None:
    """PPO's ratio starts at one: batch norms act alike in collecting and in learning."""
    made, images = agent(ppo=ppo()), data(12)
    made.train_labels(images, 0)
    policy = made.labels.policy  # type: ignore[attr-defined]
    shown, labels = Epochs(images, 12, 0).batch(0)[:2]
    observation = {"image": shown[0], "label": labels[0]}
    policy.set_training_mode(False)
    actions, _, before = policy(observation)
    policy.set_training_mode(True)
    _, after, _ = policy.evaluate_actions(observation, actions)
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("engine", ["batched", "steps"])
def test_the_label_agent_learns_what_is_rewarded(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reward for the share of first subclasses in a batch, it comes to choose them."""
    made, images = agent(engine=engine, batch_size=1, ppo=ppo(rollout_size=24, gamma=0.0, learning_rate=0.01,
                         epochs=4, minibatch=12)), data(24)  # fmt: skip
    made.prepare(images)
    env = made.labels.env  # type: ignore[attr-defined]
    monkeypatch.setattr(env, "_reward", lambda: float((env._actions % 3 == 0).mean()))
    for epoch in range(12):
        made.train_labels(images, epoch)
    batch = Epochs(images, 24, 0).batch(0)
    chosen, _ = made.labels.assign(batch)
    assert chosen is not None
    assert float((chosen % 3 == 0).float().mean()) > 0.9


def test_human_labels_are_the_images_own_and_none_leaves_the_auxiliary_head() -> None:
    images = data(12)
    batch = Epochs(images, 4, 0).batch(0)
    human = agent(method="human")
    human.prepare(images)
    assigned, _ = human.labels.assign(batch)
    assert assigned is not None and batch.human is not None
    assert torch.equal(assigned, batch.human[0])
    single = agent(method="none")
    before = [p.detach().clone() for p in single.learner.network.auxiliary.parameters()]
    single.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, single.learner.network.auxiliary.parameters(), strict=True))


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="no human labels"):
        agent(method="human").prepare(data(human=False))
    with pytest.raises(UserError, match=r"agent\.hierarchy"):
        agent(method="human", hierarchy=2).prepare(data())
    with pytest.raises(UserError, match=r"agent\.hierarchy"):
        agent(method="human", hierarchy=4).prepare(data())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"method": "random"}, "method"),
        ({"method": "human", "weight_aware": True}, "weight_aware"),
        ({"engine": "fast"}, "engine"),
        ({"hierarchy": 0}, "hierarchy"),
    ]
    for options, name in refused:
        with pytest.raises(UserError, match=f"agent.{name}"):
            agent(**options)


@pytest.mark.parametrize("method", ["rl", "maxl", "human", "none"])
def test_saved_and_restored_agents_go_on_alike(method: str, tmp_path: Any) -> None:
    images = data(12)
    one, other = (agent(0, method=method, ppo=ppo()) for _ in range(2))
    for tensor in runners.tensors(other.state_dict()):
        tensor.copy_(torch.full_like(tensor, 3))
    source = Epochs(images, 4, 0)
    one.prepare(images)
    one.train_labels(images, 0)
    one.update(source.batch(0))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    other.prepare(images)
    for made in (one, other):
        torch.manual_seed(1)
        np.random.seed(1)
        made.train_labels(images, 1)
        made.update(source.batch(1))
    assert same(tensors(one.learner.network), other.learner.network)
    assert torch.equal(one.predict(source.batch(2).images), other.predict(source.batch(2).images))


@pytest.mark.parametrize("method", ["rl", "maxl"])
def test_another_seed_after_a_rollback_changes_label_training_and_is_saved(method: str) -> None:
    images, trained = data(12), []
    for seed, restored in ((None, False), (7, False), (7, True)):
        made = agent(0, method=method, ppo=ppo())
        if seed is not None:
            made.reseed(seed)
        if restored:
            state, made = made.state_dict(), agent(0, method=method, ppo=ppo())
            made.load_state_dict(state)
        torch.manual_seed(1)
        np.random.seed(1)
        made.prepare(images)
        made.train_labels(images, 1)
        network = made.labels.policy if method == "rl" else made.labels.network  # type: ignore[attr-defined]
        trained.append((tensors(network), network))
    assert not same(trained[0][0], trained[1][1]) and same(trained[1][0], trained[2][1])
