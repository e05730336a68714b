"""Affinities against look-ahead steps taken by hand, and the groups that a run's affinities give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.gradients import DIAGNOSTICS
from mtrl.gradients.diagnostics.transference import Transference
from tests.support.gradient_toys import Regression, T


def affinity(**options: Any) -> Any:
    return DIAGNOSTICS.config_class("transference")(**options)


def by_hand(problem: Regression, batch: Any, step: float, ratio: bool) -> Tensor:
    """Z_ij: task i's loss alone, one plain step of the shared parameters, then task j's loss on the same batch."""
    shared, own, buffers = problem.network.tensors
    losses = problem.losses(shared, own, buffers, batch)[0]
    rows = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(shared.values()), retain_graph=True)
        moved = {n: p - step * g for (n, p), g in zip(shared.items(), gradients, strict=True)}
        after = problem.losses(moved, own, buffers, batch)[0]
        rows.append(1 - after / losses if ratio else losses - after)
    return torch.stack(rows).detach()


@pytest.mark.parametrize("part", [None, "actor", "critic"])
@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("step_size", [None, 0.3])
def test_affinities_are_the_mean_of_steps_taken_by_hand(part: Any, ensemble: Any, step_size: float | None) -> None:
    problem = Regression("film", ensemble)
    method = problem.optimizer(
        "equal",
        "none",
        part=part,
        diagnostics=[affinity(every=2, apply_to="both", step_size=step_size)],
        sgd={"lr": 0.05},
    )
    expected, found = [], {}
    for k in range(5):
        if k % 2 == 0:
            expected.append(by_hand(problem, problem.batch(2 * k), step_size or 0.05, part != "actor"))
        found = problem.train(method, 1, first=k)[0]
    torch.testing.assert_close(found["affinity"], torch.stack(expected).mean(0), rtol=1e-9, atol=1e-12)
    assert len(expected) == 3 and (found["affinity"].diagonal() > 0).all()


def test_a_zero_loss_gains_nothing() -> None:
    problem = Regression()
    original = problem.losses

    def losses(*arguments: Any) -> Any:
        values, aux = original(*arguments)
        return values * torch.tensor([1.0, 0.0, 1.0]), aux

    problem.losses = losses  # type: ignore[method-assign]
    found = problem.train(problem.optimizer("equal", "none", diagnostics=[affinity()]), 1)[0]["affinity"]
    assert found.isfinite().all() and not found[:, 1].any() and not found[1].any()


@pytest.mark.parametrize(("part", "wanted"), [("actor", [False, True, True]), ("critic", [True, False, True])])
def test_networks_are_measured_by_choice(part: str, wanted: list[bool]) -> None:
    built = [
        DIAGNOSTICS.build(affinity(apply_to=choice), num_tasks=T, part=part) for choice in ("critic", "actor", "both")
    ]
    assert [isinstance(b, Transference) for b in built] == wanted


def test_tasks_with_one_teacher_gain_from_each_other() -> None:
    """Tasks 0 and 1 share a teacher, task 2 has the opposite one: the shared trunk is pulled apart."""
    problem = Regression("mlp")
    problem.teachers = torch.stack([problem.teachers[0], problem.teachers[0], -problem.teachers[0]])
    found = problem.train(problem.optimizer("equal", "none", diagnostics=[affinity(every=1)]), 30)[-1]["affinity"]
    assert found[0, 1] > 0 > found[0, 2] and found[1, 0] > 0 > found[2, 0]


def test_affinities_by_rate_and_with_momentum() -> None:
    """Divided by α, and after a step as SGD with momentum takes it when it sees one task's gradient alone."""
    problem = Regression("film")
    sgd: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    method = problem.optimizer("equal", "none", diagnostics=[affinity(every=1, momentum=True, per_rate=True)], sgd=sgd)
    expected, found = [], torch.empty(0)
    for k in range(3):
        batch, network = problem.batch(2 * k), problem.network
        shared, own, buffers = network.tensors
        losses = problem.losses(shared, own, buffers, batch)[0]
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(shared.values()), retain_graph=True)
            twins = {n: p.detach().clone().requires_grad_() for n, p in shared.items()}
            step = torch.optim.SGD(twins.values(), **sgd)
            for parameter, twin, gradient in zip(shared.values(), twins.values(), gradients, strict=True):
                twin.grad = gradient
                step.state[twin] = {n: s.clone() for n, s in method.optimizer.state.get(parameter, {}).items()}
            step.step()
            after = problem.losses(twins, own, buffers, batch)[0]
            expected.append(((1 - after / losses) / 0.05).detach())
        found = problem.train(method, 1, first=k)[0]["affinity"]
    torch.testing.assert_close(found, torch.stack(expected).view(3, T, T).mean(0), rtol=1e-9, atol=1e-12)


def test_a_learning_rate_of_zero_is_not_measured_where_affinities_are_divided_by_it() -> None:
    problem = Regression()
    method = problem.optimizer("equal", "none", diagnostics=[affinity(every=1, per_rate=True)], sgd={"lr": 0.1})
    first = problem.train(method, 1)[0]["affinity"].clone()
    method.optimizer.param_groups[0]["lr"] = 0.0
    assert torch.equal(problem.train(method, 1, first=1)[0]["affinity"], first)

    def losses(*arguments: Any) -> Any:
        found, aux = problem.losses(*arguments)
        return found * torch.eye(T)[0], aux  # the other tasks' losses are zero

    assert torch.equal(method.step(losses, problem.batch(4))["affinity"], first)
