"""Weightings against torchjd's scalarisations and the papers' equations, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.gradients import WEIGHTINGS, Weighting
from mtrl.gradients.adam import Adam
from tests.support.gradient_toys import T, config, context

STEPS = 12
SCALES = pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])


@pytest.fixture
def scalarization() -> Any:
    return pytest.importorskip("torchjd.scalarization", reason="the extra `surgery` is not installed")


def make(kind: str, tasks: int = T, **options: Any) -> Any:
    return WEIGHTINGS.build(config(WEIGHTINGS, kind, **options), num_tasks=tasks).double()


def losses(step: int, tasks: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return 0.1 + torch.rand(tasks, dtype=torch.float64, generator=generator) * torch.logspace(0, 1, tasks)


def derivative(scalarizer: Any, at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(scalarizer(leaf), leaf)[0]


def see(weighting: Weighting, values: Tensor, **more: Any) -> Tensor:
    seen = context(values, **more)
    weighting.update(seen)
    return weighting.weights(seen)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_that_of_torch(weight_decay: float) -> None:
    ours, theirs = torch.linspace(-1, 1, 4).double(), nn.Parameter(torch.linspace(-1, 1, 4).double())
    adam = Adam(4, 0.1, weight_decay=weight_decay).double()
    reference = torch.optim.Adam([theirs], lr=0.1, weight_decay=weight_decay)
    for step in range(STEPS):
        theirs.grad = losses(step, 4) - 1
        adam.step(ours, theirs.grad)
        reference.step()
        torch.testing.assert_close(ours, theirs.detach())


def test_adam_lets_elements_rest() -> None:
    """An element that rests every second time moves as one that never saw those gradients."""
    values, alone = torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    adam, single = Adam(2, 0.1).double(), Adam(1, 0.1).double()
    for step in range(STEPS):
        gradient = losses(step, 2)
        adam.step(values, gradient, torch.tensor([True, step % 2 == 0]))
        if step % 2 == 0:
            single.step(alone, gradient[1:])
    torch.testing.assert_close(values[1:], alone)


@pytest.mark.parametrize(
    ("kind", "name", "parameter", "state"),
    [("uncertainty", "UW", "log_var", "log_variance"), ("imtl_l", "IMTLL", "log_scale", "log_scale")],
)
def test_learned_scales_are_torchjds(kind: str, name: str, parameter: str, state: str, scalarization: Any) -> None:
    """The parameter takes Adam's step down torchjd's loss, and the weights are its derivative by the losses."""
    ours, theirs = make(kind, learning_rate=0.1), getattr(scalarization, name)(T).double()
    with torch.no_grad():
        getattr(theirs, parameter).copy_(getattr(ours, state))
    adam = torch.optim.Adam(theirs.parameters(), lr=0.1)
    for step in range(STEPS):
        adam.zero_grad()
        theirs(losses(step)).backward()
        adam.step()
        torch.testing.assert_close(see(ours, losses(step)), derivative(theirs, losses(step)))


def test_uncertainty_starts_at_the_papers_value() -> None:
    assert make("uncertainty").log_variance.tolist() == pytest.approx([-0.7] * T)


def test_dwa_is_torchjds(scalarization: Any) -> None:
    ours, theirs, window = make("dwa", window=4), scalarization.DWA(2.0), 4
    for step in range(5 * window):
        expected = derivative(theirs, losses(step))
        found = see(ours, losses(step))
        torch.testing.assert_close(found, expected)
        assert found.sum().item() == pytest.approx(T)
        assert (step >= 2 * window) == (not torch.equal(found, torch.ones_like(found)))
        if step % window == window - 1:
            theirs.step()


def test_famo_is_torchjds(scalarization: Any) -> None:
    ours, theirs = make("famo"), scalarization.FAMO(T).double()
    for step in range(STEPS):
        torch.testing.assert_close(see(ours, losses(step)), T * derivative(theirs, losses(step)))
        after = losses(step) * losses(step + 100)
        ours.after_step(losses(step), after)
        theirs.update(after)
    assert ours.logits.abs().max() > 0.1


def test_stch_is_torchjds(scalarization: Any) -> None:
    for mu in (0.1, 1.0):
        found = see(make("stch", mu=mu), losses(0) - 3)
        torch.testing.assert_close(found, T**2 * derivative(scalarization.STCH(mu), losses(0) - 3))


def test_geometric_mean_is_torchjds(scalarization: Any) -> None:
    found = see(make("geometric_mean"), losses(0))
    torch.testing.assert_close(found, T * derivative(scalarization.GeometricMean(), losses(0)))


def test_random_weights_are_softmaxed_normals_of_the_generator() -> None:
    draws = [see(make("random"), losses(0), generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    normal = torch.randn(T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(draws[0], T * normal.softmax(0))


def test_dirichlet_weights_are_uniform_over_the_simplex() -> None:
    """The flat Dirichlet's mean 1/T and variance (T − 1) / (T² (T + 1)), and what share lies below 1/(2T)."""
    generator, weighting = torch.Generator().manual_seed(0), make("random", distribution="dirichlet")
    shares = torch.stack([see(weighting, losses(0), generator=generator) for _ in range(20_000)]) / T
    torch.testing.assert_close(shares.sum(1), torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(shares.mean(0), torch.full((T,), 1 / T).double(), atol=5e-3, rtol=0)
    variance = torch.full((T,), (T - 1) / (T**2 * (T + 1))).double()
    torch.testing.assert_close(shares.var(0), variance, rtol=0.05, atol=0)
    below = 1 - (1 - 1 / (2 * T)) ** (T - 1)  # each share is Beta(1, T − 1)
    assert float((shares < 1 / (2 * T)).double().mean()) == pytest.approx(below, abs=0.01)


def test_dirichlet_weights_are_finite_when_the_generator_draws_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, generator, **options: torch.zeros(shape, **options))
    torch.testing.assert_close(see(make("random", distribution="dirichlet"), losses(0)), torch.ones(T).double())


def test_softmax_temperature_is_the_equation() -> None:
    log_alpha = torch.tensor([0.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    found = see(make("softmax_temperature"), losses(0), extras={"log_alpha": log_alpha})
    inverse = 1 / log_alpha.detach().exp()
    torch.testing.assert_close(found, T * inverse / inverse.sum())
    assert not found.requires_grad


def test_gradnorm_descends_the_papers_loss() -> None:
    """Algorithm 1 with automatic differentiation of Σ |G_i − target|, norms in units of their mean."""
    ours = make("gradnorm", alpha=1.5, learning_rate=0.02)
    weights = nn.Parameter(torch.ones(T, dtype=torch.float64))
    adam = torch.optim.Adam([weights], lr=0.02)
    for step in range(STEPS):
        norms = losses(step + 50)
        scaled = weights * norms / norms.mean()
        ratios = losses(step) / losses(0)
        target = (scaled.mean() * (ratios / ratios.mean()) ** 1.5).detach()
        adam.zero_grad()
        (scaled - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            weights.mul_(T / weights.sum())
        seen = context(losses(step), gramian=torch.diag(norms.square()))
        seen.step = torch.tensor(step)
        ours.update(seen)
        torch.testing.assert_close(ours.weights(seen), weights.detach())


def test_gradnorm_brings_norms_together() -> None:
    ours, norms = make("gradnorm", alpha=0.0, learning_rate=0.01), torch.tensor([1.0, 2.0, 4.0]).double()
    for step in range(2000):
        seen = context(torch.ones(T, dtype=torch.float64), gramian=torch.diag(norms.square()))
        seen.step = torch.tensor(step)
        ours.update(seen)
    scaled = ours.value * norms
    assert (scaled.max() / scaled.min()).item() == pytest.approx(1, abs=0.05)


def extras() -> dict[str, Any]:
    return {"extras": {"log_alpha": torch.tensor([0.0, -1.0, -3.0])}, "generator": torch.Generator().manual_seed(0)}


DEGENERATE = {
    "ordinary": [1.0, 2.0, 3.0],
    "equal": [1.0, 1.0, 1.0],
    "one zero": [0.0, 1.0, 2.0],
    "all zero": [0.0, 0.0, 0.0],
    "far apart": [1e-10, 1.0, 1e10],
}


@pytest.mark.parametrize("values", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("kind", [k for k in WEIGHTINGS.kinds if k != "auto_lambda"])
@SCALES
def test_weights_are_finite_and_not_negative(kind: str, values: list[float], scale: float) -> None:
    weighting, found = WEIGHTINGS.build(config(WEIGHTINGS, kind), num_tasks=T), torch.zeros(0)
    now = torch.tensor(values) * scale
    for step in range(20):
        seen = context(now, gramian=torch.diag(now.double().square()), **extras())
        seen.step = torch.tensor(step)
        weighting.update(seen)
        found = weighting.weights(seen)
        weighting.after_step(now, 0.9 * now)
    assert found.shape == (T,) and found.isfinite().all() and (found >= 0).all()


@pytest.mark.parametrize("kind", [k for k in WEIGHTINGS.kinds if k not in ("auto_lambda", "softmax_temperature")])
def test_one_task_has_one_weight(kind: str) -> None:
    more = {"gramian": torch.ones(1, 1, dtype=torch.float64), "generator": torch.Generator()}
    assert see(make(kind, tasks=1), torch.ones(1, dtype=torch.float64), **more).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", ["geometric_mean", "stch", "famo", "gradnorm", "dwa", "equal"])
def test_equal_losses_and_gradients_weigh_one(kind: str) -> None:
    found = see(make(kind), torch.full((T,), 0.3, dtype=torch.float64), gramian=torch.ones(T, T).double())
    torch.testing.assert_close(found, torch.ones(T, dtype=torch.float64))
