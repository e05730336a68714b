"""The learner for pixels: per-task gradients, every method, exact continuation, and that it learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mtrl.core.specs import DenseSpec
from mtrl.data.dense import DenseBatch
from mtrl.data.pixel_tasks import KINDS
from mtrl.gradients import SURGERIES, WEIGHTINGS
from tests.support.dense_toys import CLASSES, SIZE, SPEC, B, batch, learner


def test_a_step_of_pcgrad_is_that_of_separate_gradients() -> None:
    """Each task's loss differentiated alone through the whole network in float64, then the projections by hand."""
    agent = learner(surgery="pcgrad", momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    agent.network.double()
    given = batch(0)
    given = DenseBatch(given.images.double(), tuple(target.double() for target in given.targets))
    shared, own, buffers = agent.network.tensors
    rows, owned = [], []
    for task, (made, target) in enumerate(zip(agent.tasks, given.targets, strict=True)):
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        output = agent.network.train().call(shared, own, copies, given.images)[task, :, : made.channels]
        found = torch.autograd.grad(made.loss(output, target), [*shared.values(), *own.values()])
        rows.append(torch.cat([gradient.flatten() for gradient in found[: len(shared)]]))
        owned.append([gradient[task] for gradient in found[len(shared) :]])
    gradients = torch.stack(rows)
    surgery = SURGERIES.build(SURGERIES.config_class("pcgrad")(), num_tasks=4)
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    noise = surgery.noise(4, generator, torch.device("cpu"))
    wanted = surgery.coefficients(gradients @ gradients.T, torch.ones(4, dtype=torch.bool), noise) @ gradients
    before = [p.detach().clone() for p in agent.network.parameters()]
    agent.update(given)
    moved = [b - p.detach() for b, p in zip(before, agent.network.parameters(), strict=True)]
    torch.testing.assert_close(torch.cat([m.flatten() for m in moved[: len(shared)]]), wanted, atol=1e-9, rtol=1e-7)
    for number, change in enumerate(moved[len(shared) :]):
        for task in range(4):
            torch.testing.assert_close(change[task], owned[task][number], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("network", ["split", "mtan"])
def test_every_method_runs(network: str) -> None:
    """Two updates each: finite, and the running statistics follow only the training batches."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    plain = learner(network)
    plain.update(batch(0), batch(9))
    chosen = [(w, "none") for w in WEIGHTINGS.kinds if w != "softmax_temperature"]
    chosen += [("equal", s) for s in SURGERIES.kinds]
    few = [("auto_lambda", "none"), ("equal", "pcgrad"), ("equal", "cosine_regularization")]
    for weighting, surgery in chosen if network == "split" else few:
        agent = learner(network, weighting, surgery)
        agent.update(batch(0), batch(9))
        for ours, theirs in zip(agent.network.own_buffers.values(), plain.network.own_buffers.values(), strict=True):
            torch.testing.assert_close(ours, theirs)
        metrics = agent.update(batch(1), batch(8))
        assert all(value.isfinite().all() for value in metrics.values()), (weighting, surgery)
        assert all(p.isfinite().all() for p in agent.network.parameters())


def test_the_loss_of_normals_is_chosen_by_its_option() -> None:
    losses = {form: learner(normals_loss=form).update(batch(0))["loss"] for form in ("cosine", "l1")}
    assert torch.equal(losses["cosine"][[0, 1, 3]], losses["l1"][[0, 1, 3]])
    assert losses["cosine"][2] != losses["l1"][2]


def test_a_task_alone_has_a_network_of_its_own_size() -> None:
    """One task, trained as for the baseline of Δ_MTL."""
    spec = DenseSpec(("depth",), SPEC.image_shape, ("depth",), (1,))
    agent, given = learner(spec=spec), batch(0)
    losses = [agent.update(DenseBatch(given.images, given.targets[1:2]))["loss"] for _ in range(20)]
    assert losses[-1] < losses[0] and [o.shape for o in agent.outputs(given.images)] == [(B, 1, SIZE, SIZE)]


def test_saved_and_restored_agents_go_on_alike(tmp_path: Any) -> None:
    one, other = (learner("mtan", "auto_lambda", "pcgrad", seed=seed) for seed in (0, 7))
    one.update(batch(0), batch(50))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    first, second = (agent.update(batch(1), batch(51)) for agent in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_number_is_read_back_in_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read back to the host")

    agent, batches = learner("split", "auto_lambda", "pcgrad"), (batch(0), batch(1))
    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    agent.update(*batches)


@pytest.mark.parametrize("network", ["split", "mtan"])
def test_four_pictures_are_overfitted(network: str) -> None:
    """With the running statistics: the classes exceed 95 % mIoU, depth and normals are far better than a guess."""
    agent, given = learner(network, options={"scale": 1 / 8, "head_width": 16}, weight_decay=0.0), batch(0)
    for update in range(150):
        agent.set_rate(1 if update < 110 else 0.1)
        agent.update(given)
    found = zip(agent.tasks, agent.outputs(given.images), given.targets, strict=True)
    measures = ({k: float(v) for k, v in t.measures(t.tally(o, y)).items()} for t, o, y in found)
    segmentation, depth, normals, noise = measures
    assert segmentation["miou"] > 0.95 and segmentation["pixel_accuracy"] > 0.98
    assert depth["absolute_error"] < 0.25 and normals["mean_angle"] < 12
    assert noise["absolute_error"] > 0.15


def test_a_network_knows_the_channels_of_each_task() -> None:
    agent = learner()
    assert [task.channels for task in agent.tasks] == [CLASSES, 1, 3, 1]
    assert [type(task) for task in agent.tasks] == [KINDS[kind] for kind in SPEC.kinds]
    again = copy.deepcopy(agent.outputs(batch(3).images))
    assert [output.shape[1] for output in again] == [CLASSES, 1, 3, 1]
