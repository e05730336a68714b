"""The supervised agent: its losses, its statistics, its two ways to per-task gradients, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.core.errors import UserError
from mtrl.gradients import SURGERIES
from tests.support.gradient_toys import CLASSES, IMAGE, T, classifier, image_batch


def flat(agent: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


def test_losses_are_each_tasks_cross_entropy_over_its_own_classes() -> None:
    agent, batch = classifier(), image_batch(0)
    agent.network.eval()
    losses, aux = agent.losses(*agent.network.tensors, batch)
    logits = agent.network(batch.images)
    for task, count in enumerate(CLASSES):
        own = logits[task, :, :count]
        torch.testing.assert_close(losses[task], F.cross_entropy(own, batch.labels[task]))
        assert aux["accuracy"][task] == (own.argmax(-1) == batch.labels[task]).float().mean()


def test_a_class_that_a_task_lacks_is_never_predicted() -> None:
    agent = classifier()
    with torch.no_grad():
        for name, parameter in agent.network.own.items():
            if name.endswith("bias"):
                parameter[..., -1] += 100
    predicted = agent.predict(torch.randn(T, 50, *IMAGE))
    for task, count in enumerate(CLASSES):
        assert int(predicted[task].max()) < count


@pytest.mark.parametrize("weighting", ["auto_lambda", "famo", "gradnorm"])
def test_statistics_are_those_of_one_training_forward(weighting: str) -> None:
    """A look-ahead, a second batch or a second look at the losses leaves no trace in them."""
    plain, agent = classifier("vgg16"), classifier("vgg16", weighting)
    for made in (plain, agent):
        made.update(image_batch(0), image_batch(1))
    for ours, theirs in zip(agent.network.own_buffers.values(), plain.network.own_buffers.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_statistics_after_a_finite_difference_too() -> None:
    plain, agent = classifier("vgg16"), classifier("vgg16", "auto_lambda")
    agent.optimizer.weighting.estimator = "finite_difference"  # type: ignore[assignment]
    for made in (plain, agent):
        made.update(image_batch(0), image_batch(1))
    for ours, theirs in zip(agent.network.own_buffers.values(), plain.network.own_buffers.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def gradients_by_hand(agent: Any, batch: Any) -> tuple[Tensor, list[Tensor]]:
    """Gradients (T, P) of the shared parameters, and those of the sum for owned ones, by T + 1 autograd calls."""
    shared, own, _ = agent.network.tensors

    def losses() -> Tensor:
        buffers = {n: b.clone() for n, b in agent.network.own_buffers.items()}
        return agent.losses(shared, own, buffers, batch)[0]

    agent.network.train()
    rows = [torch.autograd.grad(losses()[t], list(shared.values())) for t in range(T)]
    owned = torch.autograd.grad(losses().sum(), list(own.values()))
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]), list(owned)


@pytest.mark.parametrize("shared_input", [False, True])
@pytest.mark.parametrize("network", ["conv", "vgg16"])
def test_both_back_ends_give_separate_gradients(network: str, shared_input: bool) -> None:
    """The agent's PCGrad update is that from separate gradients, whether or not tasks see the same images."""
    options = {"batch_norm": "shared"}
    agent = classifier(network, "equal", "pcgrad", shared_input=shared_input, options=options, momentum=0.0,
                       weight_decay=0.0, learning_rate=1.0)  # fmt: skip
    agent.network.double()
    batch = image_batch(0, shared_input)
    batch = batch._replace(images=batch.images.double())
    rows, owned = gradients_by_hand(agent, batch)
    gram = rows @ rows.T
    surgery = SURGERIES.build(SURGERIES.config_class("pcgrad")(), num_tasks=T)
    noise = surgery.noise(T, _same(agent), torch.device("cpu"))
    coefficients = surgery.coefficients(gram, torch.ones(T, dtype=torch.bool), noise)
    before = [p.detach().clone() for p in agent.network.parameters()]
    agent.update(batch)
    moved = [b - p.detach() for b, p in zip(before, agent.network.parameters(), strict=True)]
    count = len(agent.network.shared)
    found = torch.cat([m.flatten() for m in moved[:count]])
    torch.testing.assert_close(found, coefficients @ rows, atol=1e-10, rtol=1e-8)
    for ours, theirs in zip(moved[count:], owned, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def _same(agent: Any) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    return generator


@pytest.mark.parametrize("shared_input", [False, True])
def test_a_gradient_penalty_moves_the_same_in_both_back_ends(shared_input: bool) -> None:
    """Cosine regularisation on repeated images equals that on the same images given once."""
    agent = classifier(surgery="cosine_regularization", shared_input=shared_input)
    batch = image_batch(0, shared_input=True)
    images = batch.images if shared_input else batch.images.expand(T, *batch.images.shape[1:])
    agent.update(batch._replace(images=images))
    reference = classifier(surgery="cosine_regularization", shared_input=True)
    reference.update(batch)
    torch.testing.assert_close(flat(agent), flat(reference), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", ["conv", "vgg16", "conv_mint", "conv_cross_stitch", "conv_routing"])
def test_learns_small_tasks(network: str) -> None:
    options = {"scale": 1 / 16} if network == "vgg16" else {"width": 8, "fc_width": 16}
    agent = classifier(network, options=options, learning_rate=0.03)
    losses = torch.stack([agent.update(image_batch(k % 20))["loss"] for k in range(150)])
    assert losses[-20:].mean() < 0.5 * losses[:10].mean()


@pytest.mark.parametrize(("weighting", "surgery"), [("auto_lambda", "none"), ("uncertainty", "pcgrad")])
def test_saved_and_restored_agents_go_on_alike(weighting: str, surgery: str, tmp_path: Any) -> None:
    one, other = (classifier("vgg16", weighting, surgery, seed=s) for s in (0, 7))
    for k in range(3):
        one.update(image_batch(k), image_batch(50 + k))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for k in range(3, 6):
        first, second = (a.update(image_batch(k), image_batch(50 + k)) for a in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one.predict(image_batch(9).images), other.predict(image_batch(9).images))


def test_no_number_is_read_back_in_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read back to the host")

    agent = classifier("conv", "auto_lambda", "pcgrad")
    batches = image_batch(0), image_batch(1)
    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    agent.update(*batches)


def test_bad_options_are_refused_by_name() -> None:
    for option, value in (("momentum", 1.0), ("batch_size", 0), ("reduction", "max"), ("max_grad_norm", 0.0)):
        with pytest.raises(UserError, match=f"agent.{option}"):
            AGENTS.config_class("supervised")(**{option: value})
