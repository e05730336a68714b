"""The one optimiser step, against gradients written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.gradients import (
    DIAGNOSTICS,
    SURGERIES,
    WEIGHTINGS,
    Context,
    Methods,
    MultiTaskOptimizer,
    Weighting,
    inner_products,
)
from mtrl.gradients.algebra import CHUNK, along, combine, gramian, rows
from mtrl.gradients.optimizer import conflict_metrics
from mtrl.gradients.surgery.pcgrad import PCGrad
from mtrl.networks import NETWORKS, TaskNetwork
from mtrl.networks.layers import Linear, owned

T, B, INPUT = 3, 6, 4


class Fixed(Weighting):
    """Weights given by hand."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)

    def weights(self, context: Context) -> Tensor:
        return self.values


class FixedPerTask(Fixed):
    needs_gramian = True


def problem(kind: str = "multi_head", ensemble: int | None = None) -> tuple[TaskNetwork, tuple[Tensor, Tensor], Any]:
    torch.manual_seed(3)
    config = NETWORKS.config_class(kind)(width=8, depth=2)
    network = TaskNetwork(NETWORKS.build(config, input_size=INPUT, output_size=1), T, ensemble).double()
    batch = torch.randn(T, B, INPUT, dtype=torch.float64), torch.randn(T, B, dtype=torch.float64)

    def task_losses(shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        output = network.call(shared, own, own_buffers, batch[0]).squeeze(-1)
        losses = (output - batch[1]).square().mean(-1)
        return losses if ensemble is None else losses.sum(0), {}

    return network, batch, task_losses


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def optimizer(network: TaskNetwork, weighting: Weighting, surgery: Any = None, **options: Any) -> MultiTaskOptimizer:
    sgd = torch.optim.SGD(network.parameters(), lr=0.0)
    return MultiTaskOptimizer(network, sgd, weighting, surgery, **options)


@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_joint_and_per_task_paths_write_the_same_gradient(ensemble: int | None, reduction: str) -> None:
    network, batch, losses = problem(ensemble=ensemble)
    found = []
    for weighting in (Fixed([1.0, 2.0, 0.5]), FixedPerTask([1.0, 2.0, 0.5])):
        optimizer(network, weighting, reduction=reduction).step(losses, batch)
        found.append([gradient(p).clone() for p in network.parameters()])
    for joint, per_task in zip(*found, strict=True):
        torch.testing.assert_close(per_task, joint, rtol=1e-9, atol=1e-12)


def test_surgery_acts_on_weighted_shared_gradients_and_never_on_owned_ones() -> None:
    network, batch, losses = problem()
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    shared, own, buffers = network.tensors
    alone = [
        torch.autograd.grad(losses(shared, own, buffers, batch)[0][t], [*shared.values(), *own.values()])
        for t in range(T)
    ]
    flat = torch.stack([torch.cat([g.flatten() for g in grads[: len(shared)]]) for grads in alone])
    weighted = flat * weights.unsqueeze(1)
    noise = torch.rand(T, T, generator=torch.Generator().manual_seed(5))
    expected = PCGrad().coefficients(weighted @ weighted.T, torch.ones(T, dtype=torch.bool), noise) @ weighted / T

    method = optimizer(
        network, Fixed(weights.tolist()), PCGrad(), generator=torch.Generator().manual_seed(5), reduction="mean"
    )
    method.step(losses, batch)
    torch.testing.assert_close(torch.cat([gradient(p).flatten() for p in shared.values()]), expected)
    for index, parameter in enumerate(own.values(), start=len(shared)):
        for task in range(T):
            torch.testing.assert_close(gradient(parameter)[task], alone[task][index][task] * weights[task] / T)


def test_clipping_acts_on_the_final_gradient() -> None:
    network, batch, losses = problem()
    optimizer(network, Fixed([1.0] * T), PCGrad(), max_grad_norm=1e-3).step(losses, batch)
    norm = torch.cat([gradient(p).flatten() for p in network.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_metrics_are_those_of_the_unweighted_shared_gradients() -> None:
    network, batch, losses = problem()
    metrics = optimizer(network, Fixed([5.0, 1.0, 1.0]), PCGrad()).step(losses, batch)
    shared, own, buffers = network.tensors
    flat = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(losses(shared, own, buffers, batch)[0][t], [*shared.values()])
                ]
            )
            for t in range(T)
        ]
    )
    torch.testing.assert_close(metrics["task_grad_norm"], flat.norm(dim=1))
    expected = torch.nn.functional.cosine_similarity(flat.unsqueeze(0), flat.unsqueeze(1), dim=-1)
    torch.testing.assert_close(metrics["cosine"], expected)
    pairs = [(expected[i, j] < 0).item() for i in range(T) for j in range(i)]
    assert metrics["conflict"].item() == pytest.approx(sum(pairs) / len(pairs))


def test_a_network_that_shares_nothing_refuses_surgery() -> None:
    network, _, _ = problem("independent")
    with pytest.raises(ValueError, match="shares none"):
        optimizer(network, Fixed([1.0] * T), PCGrad())


@pytest.mark.parametrize("size", [3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("tasks", [5, 32, 50, 70])
def test_gramian_of_blocks_is_that_of_the_whole(size: int, scale: float, tasks: int) -> None:
    blocks = [scale * torch.randn(tasks, n, dtype=torch.float64) for n in (size, 7, 2 * size)]
    whole = torch.cat(blocks, 1)
    torch.testing.assert_close(gramian(blocks), whole @ whole.T, rtol=1e-10, atol=1e-10 * scale**2)


def test_member_blocks_of_an_ensemble_are_views_of_the_gradient() -> None:
    gradient = torch.randn(2, 5, 3, 4).transpose(0, 1)
    blocks = rows(gradient, 2)
    assert [b.shape for b in blocks] == [(5, 12), (5, 12)]
    assert all(b.untyped_storage().data_ptr() == gradient.untyped_storage().data_ptr() for b in blocks)
    coefficients = torch.randn(5)
    torch.testing.assert_close(combine(gradient, coefficients), torch.einsum("t,teij->eij", coefficients, gradient))


@pytest.mark.parametrize("shape", [(5,), (1,), (1, 8), (5, 3, 4), (1, 8, 4), (1, 2, 8, 4), (5, 2, 3, 4)])
def test_gradients_of_every_layout_are_combined(shape: tuple[int, ...]) -> None:
    coefficients = torch.randn(shape[0], dtype=torch.float64)
    plain = torch.randn(shape, dtype=torch.float64)
    layouts = [plain, plain.transpose(-1, -2).contiguous().transpose(-1, -2) if len(shape) > 2 else plain]
    if len(shape) > 2:
        layouts.append(plain.transpose(0, 1).contiguous().transpose(0, 1))
    layouts.append(plain.unsqueeze(1).expand(-1, 3, *shape[1:])[:, 1])
    for gradient in layouts:
        assert torch.equal(gradient, plain)
        torch.testing.assert_close(combine(gradient, coefficients), torch.tensordot(coefficients, plain, 1))


@pytest.mark.parametrize("lies", ["in", "out"])
@pytest.mark.parametrize("ensemble", [None, 2])
def test_the_layout_in_memory_changes_no_inner_product(lies: str, ensemble: int | None) -> None:
    members = [5] if ensemble is None else [ensemble, 5]
    gradient = torch.randn(*members, 3, 4, dtype=torch.float64)
    if lies == "out":
        gradient = gradient.mT.contiguous().mT
    gradient = gradient if ensemble is None else gradient.transpose(0, 1)
    direction, coefficients = torch.randn(gradient.shape[1:]).double(), torch.randn(ensemble or 1, 5).double()
    flat = gradient.reshape(5, -1)
    torch.testing.assert_close(gramian(rows(gradient, ensemble)), flat @ flat.T)
    torch.testing.assert_close(along(gradient, direction, ensemble), flat @ direction.flatten())
    found = combine(gradient, coefficients if ensemble else coefficients[0])
    expected = torch.einsum("et,te...->e...", coefficients, gradient if ensemble else gradient.unsqueeze(1))
    torch.testing.assert_close(found, expected if ensemble else expected[0])
    assert found.is_contiguous()


def test_owned_parameters_may_have_one_gradient_between_them() -> None:
    """Two that are added have the same gradient, which autograd may give as one tensor; each is scaled once."""
    network, batch, losses = problem("film")

    def added(shared: Any, own: Any, own_buffers: Any, batch: Any) -> Any:
        values, aux = losses(shared, own, own_buffers, batch)
        first, second = (own[name] for name in list(own)[:2])
        both = torch.cat([first.flatten(1), second.flatten(1)], 1)
        return values + both.sum(1) + (first + first).flatten(1).sum(1), aux

    found = []
    for weighting in (Fixed([1.0, 2.0, 0.5]), FixedPerTask([1.0, 2.0, 0.5])):
        optimizer(network, weighting).step(added, batch)
        found.append([gradient(p).clone() for p in network.parameters()])
    for joint, per_task in zip(*found, strict=True):
        torch.testing.assert_close(per_task, joint, rtol=1e-9, atol=1e-12)


def test_zero_gradients_give_defined_metrics() -> None:
    metrics = conflict_metrics(torch.zeros(4, 4, dtype=torch.float64))
    assert all(value.isfinite().all() for value in metrics.values())
    assert metrics["conflict"] == 0


@pytest.mark.parametrize("kind", [k for k in WEIGHTINGS.kinds if k != "softmax_temperature"])
def test_every_weighting_by_its_defaults_scales_each_tasks_gradient_by_its_weight(kind: str) -> None:
    """The gradient that is written is the derivative of Σ_i w_i L_i, with the weights of the metrics."""
    network, batch, losses = problem()
    method = Methods.of(kind).optimizer(network, torch.optim.SGD(network.parameters(), lr=0.0), reduction="sum")
    weights = method.step(losses, batch, batch)["weight"]
    expected = torch.autograd.grad(losses(*network.tensors, batch)[0] @ weights, list(network.parameters()))
    for parameter, theirs in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(gradient(parameter), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", SURGERIES.kinds)
def test_every_surgery_by_its_defaults_leaves_owned_gradients_alone(kind: str) -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    network, batch, losses = problem()
    method = Methods.of(kind).optimizer(network, torch.optim.SGD(network.parameters(), lr=0.0), reduction="sum")
    method.step(losses, batch)
    if kind != "cosine_regularization":  # its loss depends on what tasks own
        expected = torch.autograd.grad(losses(*network.tensors, batch)[0].sum(), list(network.own.values()))
        for parameter, theirs in zip(network.own.values(), expected, strict=True):
            torch.testing.assert_close(gradient(parameter), theirs, rtol=1e-9, atol=1e-12)


class Spare(nn.Module):
    """Layers of which one is never used, and one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Linear(INPUT, 5), owned(Linear(5, 1))
        self.unused, self.spare_head = Linear(2, 2), owned(Linear(2, 2))
        self.frozen = Linear(5, 5).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(self.body(x).tanh()))


@pytest.mark.parametrize("kind", [*SURGERIES.kinds, "auto_lambda", "gradnorm", "watched"])
@pytest.mark.parametrize("ensemble", [None, 2])
def test_what_no_loss_depends_on_has_a_zero_gradient_and_what_is_frozen_none(kind: str, ensemble: int | None) -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    torch.manual_seed(0)
    network = TaskNetwork(lambda code: Spare(), T, ensemble).double()
    batch = torch.randn(T, B, INPUT, dtype=torch.float64), torch.randn(T, B, dtype=torch.float64)

    def losses(shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        found = (network.call(shared, own, own_buffers, batch[0]).squeeze(-1) - batch[1]).square().mean(-1)
        return found if ensemble is None else found.sum(0), {}

    watching = [DIAGNOSTICS.config_class(k)() for k in DIAGNOSTICS.kinds] if kind == "watched" else []
    methods = Methods.of("pcgrad" if kind == "watched" else kind, diagnostics=watching)
    sgd = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    method = methods.optimizer(network, sgd)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(2):
        metrics = method.step(losses, batch, batch)
        assert all(value.isfinite().all() for name, value in metrics.items() if "condition" not in name)
    for name, parameter in network.named_parameters():
        if "frozen" in name:
            assert parameter.grad is None and torch.equal(parameter, before[name])
        elif "unused" in name or "spare" in name:
            assert not gradient(parameter).any() and torch.equal(parameter, before[name])
        else:
            assert gradient(parameter).any() and not torch.equal(parameter, before[name])
    next(iter(network.shared.values())).requires_grad_(False)
    method.step(losses, batch, batch)
    assert next(iter(network.shared.values())).grad is None, "what is frozen later keeps no old gradient"


@pytest.mark.parametrize("kind", ["pcgrad", "mgda", "cagrad", "gcs", "upgrad"])
@pytest.mark.parametrize("scale", [1e18, 1e25])
def test_gradients_whose_inner_products_overflow_float32_keep_their_surgery(kind: str, scale: float) -> None:
    """A twin in float64 takes the same step; without a C compiler the step has at least finite gradients."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    found = []
    for dtype in (torch.float32, torch.float64):
        network, batch, losses = problem()
        network.to(dtype)
        method = Methods.of(kind).optimizer(
            network, torch.optim.SGD(network.parameters(), lr=0.0), generator=torch.Generator().manual_seed(0)
        )

        def scaled(shared: Any, own: Any, own_buffers: Any, batch: Any, losses: Any = losses) -> Any:
            return scale * losses(shared, own, own_buffers, batch)[0], {}

        metrics = method.step(scaled, tuple(t.to(dtype) for t in batch))
        found.append([gradient(p).double() / scale for p in network.parameters()])
        exact = dtype == torch.float64 or inner_products.takes([gradient(p)[None] for p in network.parameters()])
        assert all(g.isfinite().all() for g in found[-1])
        assert metrics["task_grad_norm"].isfinite().all() == exact
    if exact:
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_gradient_that_is_not_finite_stops_no_solver() -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    for kind in SURGERIES.kinds:
        network, batch, losses = problem()
        method = Methods.of(kind).optimizer(network, torch.optim.SGD(network.parameters(), lr=0.0))
        broken = (batch[0].clone().index_fill_(0, torch.tensor(1), float("nan")), batch[1])
        metrics = method.step(losses, broken)
        if kind != "none":
            assert metrics["task_grad_norm"].isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0, 4.0], 2.0, None])
@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_a_weighting_that_returns_other_weights_is_refused(values: Any, surgery: str) -> None:
    network, batch, losses = problem()
    weighting = Fixed([1.0])
    weighting.values = torch.tensor(values) if isinstance(values, list) else values
    operation = SURGERIES.build(SURGERIES.config_class(surgery)(), num_tasks=T)
    with pytest.raises(UserError, match=r"What `weights` of Fixed returns should be a tensor \(3,\)"):
        optimizer(network, weighting, operation).step(losses, batch)


@pytest.mark.parametrize("kind", WEIGHTINGS.kinds)
def test_metrics_keep_the_weights_of_their_update(kind: str) -> None:
    """A metric is no view of a state that later updates change."""
    network, batch, losses = problem()
    weighting = WEIGHTINGS.build(WEIGHTINGS.config_class(kind)(), num_tasks=T)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    made = MultiTaskOptimizer(network, sgd, weighting)
    extras = {name: torch.zeros(T, dtype=torch.float64) for name in weighting.needs_extras}
    found = made.step(losses, batch, batch, extras)["weight"]
    first = found.clone()
    for _ in range(3):
        made.step(losses, batch, batch, extras)
    assert torch.equal(found, first)
