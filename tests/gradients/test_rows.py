"""Updates that see some of many tasks, against the same losses by plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.core.errors import UserError
from mtrl.core.types import TaskRows
from mtrl.gradients import SURGERIES, WEIGHTINGS, build_optimizer
from mtrl.gradients.weightings.auto_lambda import AutoLambda
from mtrl.networks import NETWORKS, TaskNetwork

TASKS, T, B, INPUT = 7, 3, 5, 4
RATE = 0.05


class Goals:
    """Regression whose batch says which tasks it is of."""

    def __init__(self, kind: str = "multi_head", **options: Any) -> None:
        torch.manual_seed(0)
        config = NETWORKS.config_class(kind)(width=6, depth=2, **options)
        codes = torch.rand(TASKS, 2)
        factory = NETWORKS.build(config, input_size=INPUT, output_size=1)
        self.network = TaskNetwork(factory, TASKS, codes=codes).double()
        with torch.no_grad():
            for p in self.network.parameters():
                p.add_(0.1 * torch.randn_like(p))

    def rows(self, seed: int) -> TaskRows:
        g = torch.Generator().manual_seed(seed)
        return TaskRows(torch.randperm(TASKS, generator=g)[:T], torch.rand(T, 2, generator=g).double())

    def batch(self, seed: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(100 + seed)
        return torch.randn(T, B, INPUT, generator=g).double(), torch.randn(T, B, generator=g).double()

    def losses(self, shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, labels = batch
        output = self.network.call(shared, own, own_buffers, inputs).squeeze(-1)
        return (output - labels).square().mean(-1), {}

    def plain_losses(self, parameters: dict[str, Tensor], rows: TaskRows, batch: Any) -> Tensor:
        """(T,), each row by a network of its own."""
        network, found = self.network, []
        shared = {n: parameters[f"shared.{n}"] for n in network.shared}
        for task, code, x, label in zip(rows.task, rows.code, *batch, strict=True):
            own = {n: parameters[f"own.{n}"][task].unsqueeze(0) for n in network.own}
            codes = {name: code.unsqueeze(0) for name in network.own_buffers}
            output = network.call(shared, own, codes, x.unsqueeze(0)).flatten()
            found.append((output - label).square().mean())
        return torch.stack(found)

    def copy(self) -> dict[str, Tensor]:
        """The present parameters by name, as leaves of their own."""
        return {name: p.detach().clone().requires_grad_() for name, p in self.network.named_parameters()}

    def optimizer(self, weighting: str = "equal", surgery: str = "none", **options: Any) -> Any:
        sgd = torch.optim.SGD(self.network.parameters(), lr=RATE)
        configs = (WEIGHTINGS.config_class(weighting)(**options), SURGERIES.config_class(surgery)())
        return build_optimizer(self.network, sgd, *configs, rows=T, generator=torch.Generator().manual_seed(0))


def gradient(loss: Tensor, parameters: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), **options), strict=True))


CASES = pytest.mark.parametrize(
    ("kind", "options"),
    [("multi_head", {}), ("mint", {}), ("independent", {}), ("mint", {"generator": "full"}), ("mlp", {})],
    ids=["multi_head", "mint", "independent", "generated", "mlp"],
)


@CASES
def test_the_step_is_that_of_plain_autograd(kind: str, options: dict[str, Any]) -> None:
    problem = Goals(kind, **options)
    method = problem.optimizer()
    for k in range(3):
        rows, batch = problem.rows(k), problem.batch(k)
        before = problem.copy()
        expected = gradient(problem.plain_losses(before, rows, batch).mean(), before)
        method.step(problem.losses, batch, rows=rows)
        for name, parameter in problem.network.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name].detach() - RATE * expected[name])


@pytest.mark.parametrize(("kind", "options"), [("multi_head", {}), ("mint", {"generator": "full"})])
def test_per_task_gradients_step_as_the_joint_pass_does(kind: str, options: dict[str, Any]) -> None:
    """Auto-λ at rate 0 with λ = 1 is the plain update, by way of per-task gradients."""
    joint, apart = Goals(kind, **options), Goals(kind, **options)
    plain, method = joint.optimizer(), apart.optimizer("auto_lambda", learning_rate=0.0, initial=1.0)
    for k in range(3):
        plain.step(joint.losses, joint.batch(k), rows=joint.rows(k))
        method.step(apart.losses, apart.batch(k), apart.batch(50 + k), rows=apart.rows(k))
    for one, other in zip(joint.network.parameters(), apart.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "options"), [("multi_head", {}), ("mint", {"generator": "full"})])
@pytest.mark.parametrize("estimator", ["exact", "second_order"])
def test_auto_lambda_moves_the_rows_own_weights(kind: str, options: dict[str, Any], estimator: str) -> None:
    """The first Adam step is −rate · sign of dL_val(θ')/dλ; tasks in no row keep their λ."""
    problem = Goals(kind, **options)
    method = problem.optimizer("auto_lambda", learning_rate=0.01, estimator=estimator)
    rows, batch, second = problem.rows(0), problem.batch(0), problem.batch(1)
    theta, weights = problem.copy(), torch.full((T,), 0.1, dtype=torch.float64, requires_grad=True)
    step = gradient((problem.plain_losses(theta, rows, batch) * weights).mean(), theta, create_graph=True)
    moved = {name: theta[name].detach() - RATE * step[name] for name in theta}
    (derivative,) = torch.autograd.grad(problem.plain_losses(moved, rows, second).sum(), weights)
    method.step(problem.losses, batch, second, rows=rows)
    assert isinstance(method.weighting, AutoLambda)
    expected = torch.full((TASKS,), 0.1)
    expected[rows.task] -= 0.01 * derivative.sign().float()
    torch.testing.assert_close(method.weighting.value, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.last_weights[rows.task], expected[rows.task], rtol=1e-4, atol=1e-6)


def test_pcgrad_projects_the_rows_shared_gradients() -> None:
    problem, twin = Goals(), Goals()
    rows, batch = problem.rows(0), problem.batch(0)
    theta = problem.copy()
    names = [name for name in theta if name.startswith("shared.")]
    shared = {name: theta[name] for name in names}
    losses = problem.plain_losses(theta, rows, batch)
    jacobian = [gradient(loss, shared, retain_graph=True) for loss in losses]
    gradients = torch.stack([torch.cat([row[name].flatten() for name in names]) for row in jacobian])
    method = problem.optimizer(surgery="pcgrad")
    method.step(problem.losses, batch, rows=rows)
    noise = method.surgery.noise(T, torch.Generator().manual_seed(0), torch.device("cpu"))
    coefficients = method.surgery.coefficients(gradients @ gradients.T, torch.ones(T, dtype=torch.bool), noise)
    expected = torch.cat([theta[name].flatten() for name in names]) - RATE * coefficients @ gradients / T
    found = torch.cat([problem.copy()[name].flatten() for name in names])
    torch.testing.assert_close(found, expected)
    others = [task for task in range(TASKS) if task not in rows.task.tolist()]
    for name, parameter in problem.network.own.items():
        torch.testing.assert_close(parameter[others], twin.network.own[name][others], rtol=0, atol=0)


@pytest.mark.parametrize("weighting", ["dwa", "uncertainty", "gradnorm", "famo"])
def test_weightings_that_need_all_tasks_are_refused(weighting: str) -> None:
    with pytest.raises(UserError, match="every update sees all tasks"):
        Goals().optimizer(weighting)
