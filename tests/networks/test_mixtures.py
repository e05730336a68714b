"""MOORE, PaCo and CARE against plain loops over tasks, samples and experts in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl.core.errors import UserError
from mtrl.experiment import compose
from mtrl.networks import NETWORKS, TaskNetwork
from mtrl.networks.care import read_descriptions
from mtrl.networks.moore import orthonormal

T, B, INPUT, OUTPUT, WIDTH = 4, 5, 7, 3, 8
ENSEMBLES = pytest.mark.parametrize("ensemble", [None, 2], ids=["single", "twin"])


def make(kind: str, ensemble: int | None = None, **options: Any) -> TaskNetwork:
    torch.manual_seed(0)
    config = NETWORKS.config_class(kind)(width=WIDTH, **options)
    network = TaskNetwork(NETWORKS.build(config, input_size=INPUT, output_size=OUTPUT), T, ensemble).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs() -> Tensor:
    return torch.randn(T, B, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class OfOneTask:
    """The tensors that one task has in one member of an ensemble, by name, and layers that use them."""

    def __init__(self, network: TaskNetwork, task: int, member: int | None) -> None:
        own = {name: tensor[task] for name, tensor in {**network.own, **network.own_buffers}.items()}
        tensors = {**dict(network.shared.items()), **own}
        self.tensors = {n: (t if member is None else t[member]).detach() for n, t in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def layer(self, name: str, x: Tensor) -> Tensor:
        return self[f"{name}/weight"] @ x + self[f"{name}/bias"]

    def perceptron(self, name: str, x: Tensor, depth: int) -> Tensor:
        """A torso of `depth` ReLU layers and a linear layer."""
        for index in range(depth):
            x = self.layer(f"{name}/0/blocks/{index}/0", x).relu()
        return self.layer(f"{name}/1", x)


def outputs(network: TaskNetwork, ensemble: int | None, calculate: Any) -> tuple[Tensor, Tensor]:
    """What the network gives, and what `calculate(tensors of a task, sample)` does, sample by sample."""
    x = inputs()
    members = [None] if ensemble is None else range(ensemble)
    rows = [[[calculate(OfOneTask(network, t, e), x[t, b]) for b in range(B)] for t in range(T)] for e in members]
    expected = torch.stack([torch.stack([torch.stack(samples) for samples in tasks]) for tasks in rows])
    return network(x), expected[0] if ensemble is None else expected


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gram_schmidt_is_the_qr_decomposition(scale: float) -> None:
    """Q with the signs that make R's diagonal positive."""
    features = scale * torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, r = torch.linalg.qr(features.mT)  # the features are columns
    expected = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT
    found = torch.stack(orthonormal(features.unbind(-2)), -2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found @ found.mT, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))


def test_dependent_features_leave_outputs_and_gradients_finite() -> None:
    feature = torch.randn(6, requires_grad=True)
    basis = orthonormal([feature, 2 * feature, torch.zeros(6)])
    sum(vector.square().sum() + vector.sum() for vector in basis).backward()  # type: ignore[union-attr]
    assert feature.grad is not None and feature.grad.isfinite().all()
    lengths = [float(vector.detach().square().sum()) for vector in basis]
    assert lengths[0] == pytest.approx(1) and lengths[1] <= 1 and lengths[2] == 0


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_dependent_features_of_any_size_give_short_vectors(size: float) -> None:
    """What is left of them is rounding error, and must not become a vector of length 1."""
    feature = torch.randn(4, 400) * size
    first, *others = orthonormal([feature, 2 * feature, -3 * feature])
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(4))
    assert all((vector.norm(dim=-1) < 0.05).all() for vector in others)


@ENSEMBLES
@pytest.mark.parametrize("depth", [1, 3])
def test_moore_combines_orthonormal_experts_by_each_tasks_weights(ensemble: int | None, depth: int) -> None:
    network = make("moore", ensemble, experts=3, depth=depth)

    def calculate(task: OfOneTask, x: Tensor) -> Tensor:
        features = torch.stack([task.perceptron(f"experts/{k}", x, depth - 1) for k in range(3)], 1)
        q, r = torch.linalg.qr(features)
        return task.layer("head", ((q * r.diagonal().sign()) @ task["weights/value"]).tanh())

    torch.testing.assert_close(*outputs(network, ensemble, calculate))


@ENSEMBLES
def test_paco_composes_every_layer_of_a_task_from_the_shared_sets(ensemble: int | None) -> None:
    network = make("paco", ensemble, parameter_sets=3)
    assert [name for name in network.own] == ["weights/value"]

    def calculate(task: OfOneTask, x: Tensor) -> Tensor:
        w = task["weights/value"]
        for index in range(4):
            weight, bias = (
                torch.stack([w[k] * task[f"layers/{index}/{part}"][k] for k in range(3)]).sum(0)
                for part in ("weight", "bias")
            )
            x = weight @ x + bias
            x = x.relu() if index < 3 else x
        return x

    torch.testing.assert_close(*outputs(network, ensemble, calculate))


def test_paco_starts_at_the_scale_of_a_plain_layer() -> None:
    """Over many tasks, the composed weights have the variance 1/(3 n) of uniform ones in ±1/√n."""
    torch.manual_seed(0)
    config = NETWORKS.config_class("paco")(width=32, depth=1)
    network = TaskNetwork(NETWORKS.build(config, input_size=50, output_size=2), 200)
    composed = torch.einsum("tk,koi->toi", network.own["weights/value"], network.shared["layers/0/weight"])
    assert float(composed.detach().var()) == pytest.approx(1 / 150, rel=0.1)


@ENSEMBLES
@pytest.mark.parametrize("described", [False, True])
def test_care_attends_to_its_encoders_by_the_tasks_context(
    ensemble: int | None, described: bool, tmp_path: Path
) -> None:
    table = np.random.default_rng(0).normal(size=(T, 6)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    options = {"descriptions": str(tmp_path / "table.npy")} if described else {}
    network = make("care", ensemble, encoders=3, encoder_width=5, temperature=0.5, **options)
    assert bool(network.own) != described, "with descriptions, tasks own nothing that is trained"

    def calculate(task: OfOneTask, x: Tensor) -> Tensor:
        context = task["context/embedding/value"].relu()
        if described:
            context = task.perceptron("context/projection/0", context, 1).relu()
        context = task.perceptron("context/trunk", context, 2)
        attention = (task.perceptron("attention", context, 2) / 0.5).softmax(0)
        mixed = torch.stack([attention[k] * task.perceptron(f"encoders/{k}", x, 1) for k in range(3)]).sum(0)
        x = torch.cat([mixed, context])
        for index in range(3):
            x = task.layer(f"torso/blocks/{index}/0", x).relu()
        return task.layer("head", x)

    torch.testing.assert_close(*outputs(network, ensemble, calculate))
    if described:
        rows = network.own_buffers["context/embedding/value"]
        rows = rows if ensemble is None else rows[:, 1]
        assert np.array_equal(rows.numpy(), table)


def test_no_gradient_of_the_attention_reaches_the_context_where_the_paper_stops_it() -> None:
    """With a torso that does not see the context, the attention is all that depends on it."""
    network = make("care", encoders=2, encoder_width=5, detach_context=True)
    weight = network.shared["torso/blocks/0/0/weight"]
    with torch.no_grad():
        weight[:, 5:] = 0
    network(inputs()).square().sum().backward()
    names = [name for name in network.shared if name.startswith("context")]
    assert names and all(not network.shared[name].grad.any() for name in names)  # type: ignore[union-attr]
    assert not network.own["context/embedding/value"].grad.any()  # type: ignore[union-attr]
    attention = [p.grad for name, p in network.shared.items() if name.startswith("attention")]
    assert any(g is not None and g.any() for g in attention)


@pytest.mark.parametrize("form", ["list", "mapping", "npy"])
def test_descriptions_are_read_in_the_order_of_the_tasks(form: str, tmp_path: Path) -> None:
    rows = [[1.0, 2.0], [3.0, 4.5], [-1.0, 0.0]]
    path = tmp_path / ("table.npy" if form == "npy" else "table.json")
    if form == "npy":
        np.save(path, np.array(rows))
    else:
        path.write_text(json.dumps(rows if form == "list" else dict(zip("cab", rows, strict=True))))
    assert read_descriptions(path).tolist() == rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("{", "a table of embeddings as .npy or JSON"),
        ("[[1, 2], [3]]", "a table of embeddings"),
        ("[[1, NaN]]", "finite numbers"),
        ("[]", "a row for each task"),
        ("3", "a row for each task"),
    ],
)
def test_a_table_that_is_none_is_one_line_with_its_name(content: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_descriptions(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_of_other_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("[[1, 2], [3, 4]]")
    with pytest.raises(UserError, match=r"network\.descriptions` should be a file with 4 rows.* Found '2 rows'"):
        make("care", descriptions=str(path))


def test_what_makes_no_sense_is_refused_and_papers_sizes_are_there() -> None:
    for options, name in (
        (["network=moore", "network.width=3"], "network.width"),
        (["network=moore", "network.experts=0"], "network.experts"),
        (["network=paco", "network.parameter_sets=0"], "network.parameter_sets"),
        (["network=care", "network.encoders=0"], "network.encoders"),
        (["network=care", "network.temperature=0"], "network.temperature"),
    ):
        with pytest.raises(UserError, match=f"`{name}`"):
            compose(options)
    assert compose(["benchmark=mt10", "network=moore"]).network.experts == 4
    assert compose(["benchmark=mt50", "network=moore"]).network.experts == 6
