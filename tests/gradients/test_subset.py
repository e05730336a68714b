"""Updates that see some of many tasks, against the same losses by plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.core.errors import UserError
from mtrl.core.subset import ALL_TASKS, SomeTasks
from mtrl.gradients import SURGERIES, WEIGHTINGS, Context, Methods
from mtrl.gradients.weightings.auto_lambda import AutoLambda
from mtrl.networks import NETWORKS, TaskNetwork
from tests.support.gradient_toys import config

TASKS, T, B, INPUT = 7, 3, 5, 4
RATE = 0.05


class Goals:
    """Regression whose batch says which tasks it is of."""

    def __init__(self, kind: str = "multi_head", **options: Any) -> None:
        torch.manual_seed(0)
        made = NETWORKS.config_class(kind)(width=6, depth=2, **options)
        codes = torch.rand(TASKS, 2)
        factory = NETWORKS.build(made, input_size=INPUT, output_size=1)
        self.network = TaskNetwork(factory, TASKS, codes=codes).double()
        with torch.no_grad():
            for p in self.network.parameters():
                p.add_(0.1 * torch.randn_like(p))

    def subset(self, seed: int) -> SomeTasks:
        g = torch.Generator().manual_seed(seed)
        return SomeTasks(torch.randperm(TASKS, generator=g)[:T], torch.rand(T, 2, generator=g).double())

    def batch(self, seed: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(100 + seed)
        return torch.randn(T, B, INPUT, generator=g).double(), torch.randn(T, B, generator=g).double()

    def losses(self, shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, labels = batch
        output = self.network.call(shared, own, own_buffers, inputs).squeeze(-1)
        return (output - labels).square().mean(-1), {}

    def plain_losses(self, parameters: dict[str, Tensor], subset: SomeTasks, batch: Any) -> Tensor:
        """(T,), each task by a network of its own."""
        network, found = self.network, []
        shared = {n: parameters[f"shared.{n}"] for n in network.shared}
        for task, code, x, label in zip(subset.task, subset.code, *batch, strict=True):
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
        made = Methods(config(WEIGHTINGS, weighting, **options), config(SURGERIES, surgery), tasks_per_batch=T)
        return made.optimizer(self.network, sgd, generator=torch.Generator().manual_seed(0))


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
        subset, batch = problem.subset(k), problem.batch(k)
        before = problem.copy()
        expected = gradient(problem.plain_losses(before, subset, batch).mean(), before)
        method.step(problem.losses, batch, subset=subset)
        for name, parameter in problem.network.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name].detach() - RATE * expected[name])


@pytest.mark.parametrize(("kind", "options"), [("multi_head", {}), ("mint", {"generator": "full"})])
def test_per_task_gradients_step_as_the_joint_pass_does(kind: str, options: dict[str, Any]) -> None:
    """Auto-λ at rate 0 with λ = 1 is the plain update, by way of per-task gradients."""
    joint, apart = Goals(kind, **options), Goals(kind, **options)
    plain, method = joint.optimizer(), apart.optimizer("auto_lambda", learning_rate=0.0, initial=1.0)
    for k in range(3):
        plain.step(joint.losses, joint.batch(k), subset=joint.subset(k))
        method.step(apart.losses, apart.batch(k), apart.batch(50 + k), subset=apart.subset(k))
    for one, other in zip(joint.network.parameters(), apart.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "options"), [("multi_head", {}), ("mint", {"generator": "full"})])
@pytest.mark.parametrize("estimator", ["exact", "second_order"])
def test_auto_lambda_moves_the_weights_of_the_tasks_present(kind: str, options: dict[str, Any], estimator: str) -> None:
    """The first Adam step is −rate · sign of dL_val(θ')/dλ; absent tasks keep their λ."""
    problem = Goals(kind, **options)
    method = problem.optimizer("auto_lambda", learning_rate=0.01, estimator=estimator)
    subset, batch, second = problem.subset(0), problem.batch(0), problem.batch(1)
    theta, weights = problem.copy(), torch.full((T,), 0.1, dtype=torch.float64, requires_grad=True)
    step = gradient((problem.plain_losses(theta, subset, batch) * weights).mean(), theta, create_graph=True)
    moved = {name: theta[name].detach() - RATE * step[name] for name in theta}
    (derivative,) = torch.autograd.grad(problem.plain_losses(moved, subset, second).sum(), weights)
    method.step(problem.losses, batch, second, subset=subset)
    assert isinstance(method.weighting, AutoLambda)
    expected = torch.full((TASKS,), 0.1)
    expected[subset.task] -= 0.01 * derivative.sign().float()
    torch.testing.assert_close(method.weighting.value, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.last_weights[subset.task], expected[subset.task], rtol=1e-4, atol=1e-6)


def test_pcgrad_projects_the_shared_gradients_of_the_tasks_present() -> None:
    problem, twin = Goals(), Goals()
    subset, batch = problem.subset(0), problem.batch(0)
    theta = problem.copy()
    names = [name for name in theta if name.startswith("shared.")]
    shared = {name: theta[name] for name in names}
    losses = problem.plain_losses(theta, subset, batch)
    jacobian = [gradient(loss, shared, retain_graph=True) for loss in losses]
    gradients = torch.stack([torch.cat([row[name].flatten() for name in names]) for row in jacobian])
    method = problem.optimizer(surgery="pcgrad")
    method.step(problem.losses, batch, subset=subset)
    noise = method.surgery.noise(T, torch.Generator().manual_seed(0), torch.device("cpu"))
    coefficients = method.surgery.coefficients(gradients @ gradients.T, torch.ones(T, dtype=torch.bool), noise)
    expected = torch.cat([theta[name].flatten() for name in names]) - RATE * coefficients @ gradients / T
    found = torch.cat([problem.copy()[name].flatten() for name in names])
    torch.testing.assert_close(found, expected)
    others = [task for task in range(TASKS) if task not in subset.task.tolist()]
    for name, parameter in problem.network.own.items():
        torch.testing.assert_close(parameter[others], twin.network.own[name][others], rtol=0, atol=0)


BUILT = {kind: WEIGHTINGS.build(config(WEIGHTINGS, kind), num_tasks=T) for kind in WEIGHTINGS.kinds}
SUITED = [kind for kind, weighting in BUILT.items() if weighting.takes_some_tasks and kind != "auto_lambda"]


def seen(losses: Tensor, log_alpha: Tensor, subset: Any, everyone: int) -> Context:
    mask = torch.ones(everyone, dtype=torch.bool)
    return Context(
        subset.scatter(losses, torch.zeros(everyone)),
        torch.zeros((), dtype=torch.int64),
        mask,
        subset.present(mask),
        extras={"log_alpha": log_alpha},
    )


@pytest.mark.parametrize("kind", [kind for kind in SUITED if kind != "random"])
def test_tasks_present_weigh_as_they_do_without_the_others(kind: str) -> None:
    """The same three of seven tasks are seen: they weigh as three tasks alone do, and the others' state stays."""
    subset, g = SomeTasks(torch.tensor([4, 0, 5]), torch.zeros(T, 0)), torch.Generator().manual_seed(0)
    many, few = (WEIGHTINGS.build(config(WEIGHTINGS, kind), num_tasks=n).double() for n in (TASKS, T))
    untouched = {name: value.clone() for name, value in many.state_dict().items()}
    for _ in range(10):
        losses, log_alpha = torch.rand(T, generator=g).double(), torch.randn(TASKS, generator=g).double()
        one, other = seen(losses, log_alpha, subset, TASKS), seen(losses, log_alpha[subset.task], ALL_TASKS, T)
        many.update(one)
        few.update(other)
        torch.testing.assert_close(many.weights(one)[subset.task], few.weights(other))
    absent = ~subset.present(torch.ones(TASKS, dtype=torch.bool))
    for name, value in many.state_dict().items():
        assert torch.equal(value[absent], untouched[name][absent])


def test_random_weights_are_shared_among_the_tasks_present() -> None:
    subset, weighting = SomeTasks(torch.tensor([4, 0, 5]), torch.zeros(T, 0)), BUILT["random"]
    found = weighting.weights(seen(torch.ones(T), torch.zeros(TASKS), subset, TASKS))
    assert found[subset.task].sum().item() == pytest.approx(T) and len(set(found[subset.task].tolist())) == T


@pytest.mark.parametrize("weighting", ["dwa", "gradnorm", "famo", "geometric_mean", "stch"])
def test_weightings_that_need_all_tasks_are_refused(weighting: str) -> None:
    with pytest.raises(UserError, match=f"Weighting {weighting} should be used where every batch holds all tasks"):
        Goals().optimizer(weighting)


@pytest.mark.parametrize("surgery", ["gcs", "pcd", "gradvac", "nash_mtl"])
def test_surgery_with_primary_tasks_or_a_memory_of_tasks_is_refused(surgery: str) -> None:
    """A batch may lack every primary task, and what is remembered of one task would be used on another."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    with pytest.raises(UserError, match=f"Surgery {surgery} should be used where every batch holds all tasks"):
        Goals().optimizer(surgery=surgery)


def test_all_tasks_are_the_identity() -> None:
    whole, part = torch.rand(5, 2), torch.rand(5, 2)
    assert ALL_TASKS.gather(whole) is whole and ALL_TASKS.scatter(part, whole) is part
    assert ALL_TASKS.present(whole) is whole and ALL_TASKS.to(torch.device("cpu")) is ALL_TASKS
    ALL_TASKS.write(whole, part)
    assert torch.equal(whole, part)


def test_summaries_are_means_over_tasks_and_over_pairs_of_different_ones() -> None:
    some = SomeTasks(torch.tensor([4, 0, 2]), torch.eye(3))
    cosines = torch.tensor([[1.0, 0.2, -0.4], [0.2, 1.0, 0.5], [-0.4, 0.5, 1.0]])
    found = some.summary({"loss": torch.tensor([1.0, 2.0, 6.0]), "cosine": cosines})
    assert {name: round(float(value), 6) for name, value in found.items()} == {"loss": 3.0, "cosine": 0.1}


def test_scattering_undoes_gathering_and_keeps_zeros_elsewhere() -> None:
    subset, whole = SomeTasks(torch.tensor([3, 1]), torch.zeros(2, 0)), torch.rand(4, 2)
    part = subset.gather(whole)
    assert torch.equal(part, whole[[3, 1]])
    expected = torch.where(torch.tensor([[False], [True], [False], [True]]), whole, 0.0)
    assert torch.equal(subset.scatter(part, whole), expected)
    written = torch.zeros(4, 2)
    subset.write(written, part)
    assert torch.equal(written, expected)
