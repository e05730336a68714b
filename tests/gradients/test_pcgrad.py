"""PCGrad on the Gramian against the paper's Algorithm 1 on whole gradient vectors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mtrl.core.native import FAILURES, compiled
from mtrl.gradients.surgery import pcgrad
from mtrl.gradients.surgery.pcgrad import PCGrad


def _has_compiler() -> bool:
    """Whether there is a C compiler; then the code in C has to work."""
    try:
        return compiled("int probe;") is not None
    except FAILURES:
        return False


@pytest.fixture(
    params=[pytest.param("c", marks=pytest.mark.skipif(not _has_compiler(), reason="no C compiler")), "torch"]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Projections are computed in C, or by PyTorch as on a GPU and without a C compiler."""
    if request.param == "torch":
        monkeypatch.setattr(pcgrad, "_library", lambda: None)
    else:
        monkeypatch.setattr(pcgrad, "projected_by_columns", None)
    return request.param


both_ways = pytest.mark.usefixtures("way")
SCALES = pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e10])


def algorithm_1(gradients: Tensor, orders: Tensor) -> Tensor:
    """The paper's pseudo-code, vector by vector."""
    projected = gradients.clone()
    for i in range(len(gradients)):
        for j in orders[i].tolist():
            product = projected[i] @ gradients[j]
            if j != i and product < 0:
                projected[i] = projected[i] - product / gradients[j].square().sum() * gradients[j]
    return projected.sum(0)


def random_orders(tasks: int, generator: torch.Generator) -> Tensor:
    """(T, T - 1): the other tasks of each."""
    orders = torch.rand(tasks, tasks, generator=generator).argsort(1)
    return orders[orders != torch.arange(tasks).unsqueeze(1)].view(tasks, tasks - 1)


@both_ways
@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 50])
@SCALES
def test_equals_algorithm_1_in_vector_space(tasks: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(tasks)
    for _ in range(5):
        gradients = scale * torch.randn(tasks, 60, dtype=torch.float64, generator=generator)
        orders = random_orders(tasks, generator)
        coefficients = PCGrad.projected(gradients @ gradients.T, orders).sum(0)
        torch.testing.assert_close(
            coefficients @ gradients, algorithm_1(gradients, orders), rtol=1e-9, atol=1e-11 * scale
        )


@both_ways
@SCALES
def test_gradients_without_conflict_pass_unchanged(scale: float) -> None:
    gradients = scale * torch.rand(6, 20, dtype=torch.float64)
    surgery = PCGrad()
    noise = surgery.noise(6, None, torch.device("cpu"))
    coefficients = surgery.coefficients(gradients @ gradients.T, torch.ones(6, dtype=torch.bool), noise)
    assert torch.equal(coefficients, torch.ones(6, dtype=torch.float64))


@both_ways
def test_opposite_gradients_cancel_and_zero_gradients_are_skipped() -> None:
    gradients = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    for seed in range(5):
        orders = random_orders(3, torch.Generator().manual_seed(seed))
        coefficients = PCGrad.projected(gradients @ gradients.T, orders).sum(0)
        assert coefficients.isfinite().all()
        torch.testing.assert_close(coefficients @ gradients, torch.zeros(2, dtype=torch.float64))


@both_ways
def test_a_gradient_whose_norm_underflows_is_skipped() -> None:
    """Its products with others may still be there."""
    gramian = torch.tensor([[1.0, -1e-30], [-1e-30, 0.0]], dtype=torch.float64)
    projected = PCGrad.projected(gramian, torch.tensor([[1], [0]]))
    assert torch.equal(projected[0], torch.tensor([1.0, 0.0], dtype=torch.float64))


@both_ways
def test_two_tasks_end_without_conflict() -> None:
    """With two tasks each projected gradient is orthogonal to the other's original."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    projected = PCGrad.projected(gradients @ gradients.T, torch.tensor([[1], [0]])) @ gradients
    assert projected[0] @ gradients[1] == pytest.approx(0, abs=1e-12)
    assert projected[1] @ gradients[0] == pytest.approx(0, abs=1e-12)


@both_ways
def test_every_combination_of_orders_is_drawn_equally_often() -> None:
    """Three tasks have two orders each: every update is Algorithm 1's for one of the eight, all equally likely."""
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-0.8, 1.0, 0.3], [-0.3, -0.9, 1.0]], dtype=torch.float64)
    others = [torch.tensor([[1, 2], [2, 1]]), torch.tensor([[0, 2], [2, 0]]), torch.tensor([[0, 1], [1, 0]])]
    possible = torch.stack([algorithm_1(gradients, torch.stack(orders)) for orders in itertools.product(*others)])
    assert torch.cdist(possible, possible).fill_diagonal_(1).min() > 1e-3, "the orders should matter in this example"
    surgery, generator, counts = PCGrad(), torch.Generator().manual_seed(0), torch.zeros(8)
    for _ in range(2000):
        noise = surgery.noise(3, generator, torch.device("cpu"))
        update = surgery.coefficients(gradients @ gradients.T, torch.ones(3, dtype=torch.bool), noise) @ gradients
        distances = (possible - update).norm(dim=1)
        assert distances.min() < 1e-12
        counts[distances.argmin()] += 1
    assert ((counts / 2000 - 1 / 8).abs() < 0.03).all()


def test_the_mean_over_orders_agrees_with_torchjd() -> None:
    """torchjd draws its own orders, so the two are compared in expectation; both sum over tasks."""
    aggregation = pytest.importorskip("torchjd.aggregation", reason="the extra `surgery` is not installed")
    torch.manual_seed(0)
    gradients = torch.randn(4, 3, dtype=torch.float64)
    gramian = gradients @ gradients.T
    theirs = torch.stack([aggregation.PCGradWeighting()(gramian) for _ in range(3000)]).mean(0)
    surgery, generator = PCGrad(), torch.Generator().manual_seed(1)
    device, primary = torch.device("cpu"), torch.ones(4, dtype=torch.bool)
    draws = [surgery.coefficients(gramian, primary, surgery.noise(4, generator, device)) for _ in range(3000)]
    assert torch.stack(draws).std(0).max() > 0.01, "the orders should matter in this example"
    torch.testing.assert_close(torch.stack(draws).mean(0), theirs, atol=0.03, rtol=0.03)


@both_ways
def test_infinite_products_are_not_hidden() -> None:
    """A run stops at numbers that are not finite."""
    gramian = torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]], dtype=torch.float64)
    assert PCGrad.projected(gramian, torch.tensor([[1], [0]])).isnan().any()


def test_both_ways_find_the_same_coefficients() -> None:
    gradients = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gramian, orders = gradients @ gradients.T, random_orders(20, torch.Generator().manual_seed(1))
    found = PCGrad.projected(gramian, orders)
    torch.testing.assert_close(found, pcgrad.projected_by_columns(gramian, orders), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(PCGrad.projected(gramian.T, orders.T.contiguous().T), found, rtol=1e-12, atol=1e-12)
