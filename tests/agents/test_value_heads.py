"""Value heads against their papers' formulas in float64, and PopArt's two promises: right statistics, kept outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl.agents.off_policy import CriticBatch
from mtrl.agents.sac import Config
from mtrl.agents.value_heads import MIN_DEVIATION, HLGauss, PopArt, TwoHot, ValueHead, build_head, symexp, symlog
from mtrl.core.errors import UserError
from mtrl.core.subset import ALL_TASKS, SomeTasks
from mtrl.networks import NETWORKS
from tests.support.learners import A, B, Experience, O, T, agent

KINDS = ["scalar", "two_hot", "hl_gauss"]
LOW, HIGH, K = -4.0, 6.0, 21


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def phi(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def two_hot(y: float) -> list[float]:
    """The two nearest of K points, one loop over them."""
    points = [LOW + (HIGH - LOW) * k / (K - 1) for k in range(K)]
    found = [0.0] * K
    for k in range(K - 1):
        if points[k] <= y <= points[k + 1]:
            found[k] = (points[k + 1] - y) / (points[k + 1] - points[k])
            found[k + 1] = 1 - found[k]
            break
    return found


def hl_gauss(y: float) -> list[float]:
    width = (HIGH - LOW) / K
    edges = [LOW + width * k for k in range(K + 1)]
    mass = [phi((edges[k + 1] - y) / (0.75 * width)) - phi((edges[k] - y) / (0.75 * width)) for k in range(K)]
    whole = phi((HIGH - y) / (0.75 * width)) - phi((LOW - y) / (0.75 * width))
    return [m / whole for m in mass]


@pytest.mark.parametrize(("make", "formula"), [(TwoHot, two_hot), (HLGauss, hl_gauss)])
def test_a_projection_is_the_papers_formula(make: Any, formula: Any) -> None:
    targets = torch.linspace(LOW + 0.3, HIGH - 0.3, 200)
    found = make(LOW, HIGH, K).project(targets)
    np.testing.assert_allclose(found.numpy(), [formula(y) for y in targets.tolist()], atol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1)


@pytest.mark.parametrize(("make", "margin", "error"), [(TwoHot, 0.0, 1e-12), (HLGauss, 5 * (HIGH - LOW) / K, 1e-5)])
def test_the_mean_of_a_projection_is_the_target(make: Any, margin: float, error: float) -> None:
    head = make(LOW, HIGH, K)
    targets = torch.linspace(LOW + margin, HIGH - margin, 500)
    np.testing.assert_allclose(head.value(head.project(targets).log()), targets, atol=error)


@pytest.mark.parametrize("make", [TwoHot, HLGauss])
def test_targets_beyond_the_support_are_its_ends(make: Any) -> None:
    head = make(LOW, HIGH, K)
    found = head.project(torch.tensor([-1e9, head.centers[0].item(), head.centers[-1].item(), 1e9]))
    assert found.isfinite().all()
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])


def test_symlog_is_undone_by_symexp_and_keeps_means() -> None:
    x = torch.cat([-torch.logspace(-9, 6, 40), torch.zeros(1), torch.logspace(-9, 6, 40)])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-9, atol=0)
    torch.testing.assert_close(symlog(torch.tensor([math.e - 1, 1 - math.e])), torch.tensor([1.0, -1.0]))
    head: Any = build_head(Config(value_head="two_hot"), T)
    targets = torch.linspace(-20_000, 20_000, 400)
    torch.testing.assert_close(head.value(head.head.project(symlog(targets)).log()), targets, rtol=1e-9, atol=1e-9)


def heads() -> dict[str, ValueHead]:
    made = {kind: build_head(Config(value_head=kind, bins=11), T) for kind in KINDS}
    made["scalar, symlog"] = build_head(Config(symlog=True), T)
    made |= {f"{kind}, popart": build_head(Config(value_head=kind, popart=True, bins=11), T) for kind in KINDS}
    for head in made.values():
        head.observe(5 * torch.randn(T, B, generator=torch.Generator().manual_seed(3)), ALL_TASKS, ())
    return made


@pytest.mark.parametrize("name", heads())
def test_gradients_are_numerical_derivatives_and_vanish_at_the_target(name: str) -> None:
    head, g = heads()[name], torch.Generator().manual_seed(0)
    output, target = torch.randn(2, T, B, head.output_size, generator=g), 2 * torch.randn(T, B, generator=g)
    assert head.value(output).shape == head.loss(output, target).shape == (2, T, B)
    for function in (head.value, lambda x: head.loss(x, target)):
        assert torch.autograd.gradcheck(function, output.requires_grad_())
    own = head.value(output).detach()[0]
    if head.output_size == 1:
        torch.testing.assert_close(head.loss(output[:1], own)[0], torch.zeros(T, B))
    steps = torch.zeros(T, B, head.output_size).requires_grad_()
    optimizer = torch.optim.LBFGS([steps], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = head.loss(steps, target).sum()
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    torch.testing.assert_close(head.value(steps.detach()), target, rtol=0.01, atol=0.01)


def weighted(batches: list[Tensor], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """NumPy's mean and deviation of each task's targets, the k-th of n batches weighing (1 − β)^(n − k)."""
    values = np.concatenate([b.numpy() for b in batches], 1)
    weights = np.repeat((1 - rate) ** np.arange(len(batches))[::-1], [b.shape[1] for b in batches])
    mean = np.average(values, axis=1, weights=weights)
    return mean, np.sqrt(np.average((values - mean[:, None]) ** 2, axis=1, weights=weights))


@pytest.mark.parametrize("rate", [1e-6, 0.1, 1.0])
def test_popart_has_numpys_statistics_of_each_task(rate: float) -> None:
    head = PopArt(ValueHead(), T, rate)
    scales = torch.tensor([0.01, 1.0, 1000.0]).view(T, 1)
    batches = [scales * (torch.randn(T, B) + k) for k in range(6)]
    for batch in batches:
        head.observe(batch, ALL_TASKS, ())
    mean, deviation = weighted(batches, rate)
    np.testing.assert_allclose(head.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(head.deviation, deviation, rtol=1e-8)


@pytest.mark.parametrize("rate", [3e-4, 0.1, 0.2])
@pytest.mark.parametrize("value", [0.0, 500.0])
def test_popart_learns_from_targets_that_do_not_vary(rate: float, value: float) -> None:
    """The weight of a first batch, rounded, must not make its variance negative."""
    head = PopArt(ValueHead(), T, rate)
    for _ in range(3):
        head.observe(torch.full((T, B), value), ALL_TASKS, ())
        assert (head.mean == value).all() and (head.variance >= 0).all() and (head.deviation == MIN_DEVIATION).all()


def test_popart_learns_only_of_the_tasks_that_a_batch_has() -> None:
    head, apart = PopArt(ValueHead(), 4, 0.1), [PopArt(ValueHead(), 1, 0.1) for _ in range(4)]
    for k, task in enumerate([[0, 2], [2, 3], [3, 2], [0, 3]]):
        batch = torch.randn(2, B) * (k + 1)
        subset = SomeTasks(torch.tensor(task), torch.zeros(2, 4))
        head.observe(batch, subset, ())
        for row, t in enumerate(task):
            apart[t].observe(batch[row : row + 1], ALL_TASKS, ())
        output = torch.randn(2, 2, B, 1)
        expected = torch.stack([apart[t].value(output[:, r : r + 1]) for r, t in enumerate(task)], 1).squeeze(2)
        torch.testing.assert_close(head.value(output, subset), expected)
    for name in ("mean", "variance", "count"):
        torch.testing.assert_close(getattr(head, name), torch.cat([getattr(h, name) for h in apart]))


@pytest.mark.parametrize("scale", ["present", "largest"])
@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_popart_keeps_outputs_while_the_statistics_move(network: str, scale: str) -> None:
    """Those of critics and targets, for ensembles of every architecture, also with output layers that tasks share."""
    learner = agent("none", network, popart=True, popart_rate=0.5, popart_scale=scale)
    data = Experience(learner)
    learner.learn(data.draw, 3)
    head, inputs = learner.head, torch.randn(T, B, O + A)
    before = [head.value(net(inputs)).detach() for net in (learner.critic, learner.target)]
    statistics = head.mean.clone()
    for size in (100.0, 1e-3):
        head.observe(size * torch.randn(T, B) - size, ALL_TASKS, (learner.critic, learner.target))
        for net, values in zip((learner.critic, learner.target), before, strict=True):
            torch.testing.assert_close(head.value(net(inputs)), values, rtol=1e-9, atol=1e-9)
    assert (head.mean != statistics).all() and all(v.std() > 0 for v in before)


def test_returns_that_become_constant_give_small_gradients_where_the_largest_deviation_counts() -> None:
    """The targets' size falls to a ten-thousandth: the present deviation makes the task's gradients much larger."""

    def learned(scale: str) -> tuple[list[Tensor], Tensor]:
        learner = agent("none", "multi_head", popart=True, popart_rate=0.5, popart_scale=scale)
        deviations: list[Tensor] = []
        for k in range(40):
            sizes = torch.tensor([1.0, 1.0, 1.0 if k < 2 else 1e-4]).view(T, 1)
            learner.head.observe(sizes * torch.randn(T, B), ALL_TASKS, learner.value_networks)
            deviations.append(learner.head.deviation.clone())
        return deviations, learner.critic.own["1/scale"].detach().abs().reshape(T, -1).amax(1)

    deviations, factors = learned("largest")
    assert all((later >= earlier).all() for earlier, later in pairwise(deviations)) and (factors <= 1).all()
    deviations, factors = learned("present")
    assert deviations[-1][2] < 1e-3 and factors[2] > 1000 and (factors[:2] < 10).all()


def test_popart_trains_tasks_of_unlike_scale_alike() -> None:
    """Errors end as small shares of each task's deviation; without PopArt the small task learns nothing."""
    scales = torch.tensor([1e-2, 1.0, 1e2]).view(T, 1)

    def errors(**options: Any) -> Tensor:
        learner = agent("none", "mlp", learning_rate=3e-3, **options)
        g = torch.Generator().manual_seed(5)
        inputs, code = torch.randn(T, 64, O + A, generator=g), torch.randn(O + A, generator=g)
        target = scales * (inputs @ code).tanh()
        for _ in range(300):
            learner.step_critics([CriticBatch(inputs, target)], ALL_TASKS)
        found = learner.head.value(learner.critic(inputs)).detach()[0]
        return ((found - target).square().mean(1).sqrt() / target.std(1)).detach()

    assert (errors(popart=True) < 0.3).all()
    assert errors()[0] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_head": "three_hot"}, "agent.value_head` should be one of scalar, two_hot, hl_gauss"),
        ({"bins": 1}, "agent.bins"),
        ({"support": [1.0, 1.0]}, "agent.support` should be two numbers, the lower first"),
        ({"popart": True, "symlog": True}, "agent.symlog` should be false with agent.popart"),
        ({"popart_rate": 0.0}, "agent.popart_rate"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**options)
