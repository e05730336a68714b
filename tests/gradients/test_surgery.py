"""Our own surgery beyond plain PCGrad, and where it is applied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.gradients import SURGERIES
from mtrl.gradients.surgery.pcgrad import PCGrad
from tests.support.gradient_toys import Regression, T, config

SCALES = pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e10])
ALL = torch.ones(T, dtype=torch.bool)


def random(tasks: int, seed: int = 0, columns: int = 7) -> Tensor:
    return torch.randn(tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(kind: str, tasks: int = T, **options: Any) -> Any:
    return SURGERIES.build(config(SURGERIES, kind, **options), num_tasks=tasks)


@SCALES
@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_ablations_mix_direction_and_magnitude(tasks: int, scale: float) -> None:
    """Fig. 3 of the paper, on whole vectors."""
    gradients, noise = scale * random(tasks), torch.rand(tasks, tasks, dtype=torch.float64)
    update = {
        variant: PCGrad(variant).coefficients(gradients @ gradients.T, ALL, noise) @ gradients
        for variant in ("full", "direction", "magnitude")
    }
    plain = gradients.sum(0)
    torch.testing.assert_close(update["direction"], update["full"] / update["full"].norm() * plain.norm())
    torch.testing.assert_close(update["magnitude"], plain / plain.norm() * update["full"].norm())


@SCALES
@pytest.mark.parametrize("variant", ["full", "direction", "magnitude"])
def test_ablations_of_degenerate_gradients(variant: str, scale: float) -> None:
    one = scale * random(1)
    for other, expected in ((-one, 0 * one[0]), (0 * one, one[0])):
        gradients = torch.cat([one, other])
        found = PCGrad(variant).coefficients(gradients @ gradients.T, ALL, torch.rand(2, 2)) @ gradients
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * scale)
    nothing = PCGrad(variant).coefficients(torch.zeros(2, 2).double(), ALL, torch.rand(2, 2))
    assert nothing.isfinite().all()
    identical = one.expand(3, -1)
    found = PCGrad(variant).coefficients(identical @ identical.T, ALL, torch.rand(3, 3)) @ identical
    torch.testing.assert_close(found, 3 * one[0])


@SCALES
def test_gcs_keeps_the_auxiliaries_that_agree(scale: float) -> None:
    """Du et al.: g = Σ_primary g + Σ_aux g [cos(g, Σ_primary g) > 0]."""
    primary = torch.tensor([True, False, False, True, False])
    kept = set()
    for seed in range(10):
        gradients = scale * random(5, seed)
        lead = gradients[primary].sum(0)
        cosine = torch.nn.functional.cosine_similarity(gradients, lead.unsqueeze(0))
        expected = lead + gradients[~primary & (cosine > 0)].sum(0)
        found = build("gcs", 5).coefficients(gradients @ gradients.T, primary, None)
        torch.testing.assert_close(found @ gradients, expected)
        kept.add(int(found.sum()))
    assert len(kept) > 1
    assert build("gcs", 2).coefficients(torch.zeros(2, 2), torch.tensor([True, False]), None).tolist() == [1, 0]


@SCALES
def test_gcs_of_degenerate_gradients(scale: float) -> None:
    one, lead = scale * random(1), torch.tensor([True, False])
    cases = [(torch.cat([one, one]), 2 * one[0]), (torch.cat([one, -one]), one[0]), (torch.cat([one, 0 * one]), one[0])]
    for gradients, expected in cases:
        found = build("gcs", 2).coefficients(gradients @ gradients.T, lead, None)
        torch.testing.assert_close(found.to(gradients) @ gradients, expected, rtol=1e-9, atol=0)
    assert build("gcs", 1).coefficients(one @ one.T, lead[:1], None).tolist() == [1]


def plain(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and weights of one."""
    ones = torch.ones_like(gradients[:, 0])
    return ones, ones


@pytest.mark.parametrize("leak", [0.0, 0.3])
@SCALES
def test_graddrop_is_algorithm_1(leak: float, scale: float) -> None:
    gradients = scale * random(4, columns=50)
    found = build("graddrop", 4, leak=leak).combine(gradients, *plain(gradients), torch.Generator().manual_seed(2))
    draw = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    purity = 0.5 * (1 + gradients.sum(0) / gradients.abs().sum(0))
    mask = (purity > draw) * (gradients > 0) + (purity < draw) * (gradients < 0)
    expected = ((leak + (1 - leak) * mask.double()) * gradients).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * scale)


def test_graddrop_of_degenerate_gradients() -> None:
    one, generator = random(1), torch.Generator().manual_seed(0)
    for gradients in (one, one.expand(3, -1), torch.cat([one, 0 * one])):
        torch.testing.assert_close(build("graddrop").combine(gradients, *plain(gradients), generator), gradients.sum(0))
    opposed = build("graddrop").combine(torch.cat([one, -one]), *plain(torch.cat([one, -one])), generator)
    torch.testing.assert_close(opposed.abs(), one[0].abs())
    assert not build("graddrop").combine(0 * random(3), *plain(random(3)), generator).any()


def test_graddrop_agrees_with_torchjd_in_the_mean() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation", reason="the extra `surgery` is not installed")
    gradients, generator = random(3), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    theirs = torch.stack([aggregation.GradDrop()(gradients) for _ in range(4000)]).mean(0)
    ours = torch.stack([build("graddrop").combine(gradients, *plain(gradients), generator) for _ in range(4000)]).mean(
        0
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.12)


def flat_gradients(problem: Regression, batch: Any) -> Tensor:
    """(T, P) task gradients of the shared parameters, in a graph."""
    shared, own, buffers = problem.network.tensors
    losses = problem.losses(shared, own, buffers, batch)[0]
    rows = [torch.autograd.grad(loss, list(shared.values()), create_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("network", ["multi_head", "film"])
@pytest.mark.parametrize("ensemble", [None, 2])
def test_cosine_regularization_is_the_derivative_of_the_whole_loss(network: str, ensemble: int | None) -> None:
    """Suteu & Guo: Σ L + strength · mean over pairs of cos², by automatic differentiation of one graph."""
    problem, twin = Regression(network, ensemble), Regression(network, ensemble)
    method = problem.optimizer("equal", config(SURGERIES, "cosine_regularization", strength=0.7), reduction="sum")
    metrics = problem.train(method, 1)[0]
    rows = flat_gradients(twin, twin.batch(0))
    cosine = torch.nn.functional.cosine_similarity(rows.unsqueeze(0), rows.unsqueeze(1), dim=-1)
    penalty = 0.7 * torch.stack([cosine[i, j] ** 2 for i in range(T) for j in range(i)]).mean()
    torch.testing.assert_close(metrics["penalty"], penalty.detach())
    (twin.losses(*twin.network.tensors, twin.batch(0))[0].sum() + penalty).backward()
    for ours, theirs in zip(problem.network.parameters(), twin.network.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)


def test_cosine_regularization_turns_gradients_orthogonal() -> None:
    ends = []
    for strength in (0.0, 3.0):
        problem = Regression()
        method = problem.optimizer("equal", config(SURGERIES, "cosine_regularization", strength=strength))
        ends.append(sum(m["cosine"].square().triu(1).sum() for m in problem.train(method, 200)[-50:]))
    assert ends[1] < 0.8 * ends[0]


@SCALES
def test_cosine_regularization_of_degenerate_gradients(scale: float) -> None:
    one = scale * random(1)
    expected = {"one": 0.0, "identical": 0.1, "zero": 0.0, "opposed": 0.1, "nothing": 0.0}
    cases = [one, one.expand(2, -1), torch.cat([one, 0 * one]), torch.cat([one, -one]), torch.zeros(3, 7).double()]
    for gradients, value in zip(cases, expected.values(), strict=True):
        leaf = gradients.clone().requires_grad_()
        penalty = build("cosine_regularization").penalty(leaf @ leaf.T)
        assert penalty.item() == pytest.approx(value)
        (slope,) = torch.autograd.grad(penalty, leaf)
        assert slope.isfinite().all()


@pytest.mark.parametrize("kind", ["pcgrad", "gcs"])
def test_per_critic_operates_on_each_member_by_itself(kind: str) -> None:
    problem, twin = Regression(ensemble=2), Regression(ensemble=2)
    surgery = config(SURGERIES, kind, per_critic=True)
    problem.train(problem.optimizer("equal", surgery, reduction="sum"), 1)
    shared, own, buffers = twin.network.tensors
    losses = twin.losses(shared, own, buffers, twin.batch(0))[0]
    rows = [torch.autograd.grad(loss, list(shared.values()), retain_graph=True) for loss in losses]
    generator, found = torch.Generator().manual_seed(0), []
    for member in range(2):
        gradients = torch.stack([torch.cat([g[member].flatten() for g in row]) for row in rows])
        method = build(kind)
        noise = method.noise(T, generator, torch.device("cpu"))
        primary = torch.tensor([True, False, False]) if kind == "gcs" else ALL
        found.append(method.coefficients(gradients @ gradients.T, primary, noise) @ gradients)
    ours = [torch.cat([p.grad[m].flatten() for p in problem.network.shared.values()]) for m in range(2)]
    for mine, expected in zip(ours, found, strict=True):
        torch.testing.assert_close(mine, expected)


def test_members_have_states_of_their_own() -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    problem = Regression(ensemble=2)
    method = problem.optimizer("equal", config(SURGERIES, "gradvac", per_critic=True))
    problem.train(method, 3)
    states = [v["cosines"] for k, v in method.state_dict().items() if k.endswith("_extra_state")]
    assert len(states) == 2 and not torch.equal(*states)
