"""Auto-λ: its estimators against each other and by hand, what it leaves untouched, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from mtrl.core.errors import UserError
from mtrl.gradients import WEIGHTINGS, MultiTaskOptimizer
from mtrl.gradients.look_ahead import ESTIMATORS, LookAhead
from tests.support.gradient_toys import INPUT, Regression, T, config
from tests.support.look_aheads import WEIGHTS, Probe, derivatives

MOMENTUM: dict[str, Any] = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.01}


def examined(
    problem: Regression,
    examine: Callable[[LookAhead], Any] = derivatives,
    reduction: str = "mean",
    sgd: Any = MOMENTUM,
    steps: int = 3,
) -> Any:
    """What a look shows after a few steps; the primary tasks are 0 and 2."""
    optimizer = torch.optim.SGD(problem.network.parameters(), **sgd)
    probe = Probe(lambda ahead: None)
    primary = torch.tensor([True, False, True])
    method = MultiTaskOptimizer(problem.network, optimizer, probe, reduction=reduction, primary=primary)
    problem.train(method, steps)
    probe.examine = examine
    problem.train(method, 1, first=steps)
    return probe.found[-1]


@pytest.mark.parametrize("network", ["multi_head", "film", "independent"])
@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sgd", [{"lr": 0.03}, MOMENTUM], ids=["plain", "momentum"])
def test_exact_is_the_derivative_of_the_unrolled_step(network: str, ensemble: Any, reduction: str, sgd: Any) -> None:
    exact, difference, unrolled = examined(Regression(network, ensemble), derivatives, reduction, sgd)
    torch.testing.assert_close(exact, unrolled, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(difference, exact, rtol=0.01, atol=0.01 * exact.abs().max().item())


class Bare(nn.Module):
    """The least that a network has to be: a shared vector and a number of each task's own."""

    num_tasks: int = T
    ensemble: int | None = None
    shared_input = False

    def __init__(self) -> None:
        super().__init__()
        self.owner: dict[str, int] = {}
        generator = torch.Generator().manual_seed(0)
        shared, own = (torch.randn(*n, dtype=torch.float64, generator=generator) for n in ((INPUT,), (T, 1)))
        self.shared, self.own = nn.ParameterDict({"w": shared}), nn.ParameterDict({"h": own})

    @property
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        return dict(self.shared.items()), dict(self.own.items()), {}

    def per_task_leaves(self) -> dict[str, Tensor]:
        return {n: p.detach().expand(T, *p.shape).requires_grad_() for n, p in self.shared.items()}

    def at(self, subset: Any) -> Any:
        return self

    @staticmethod
    def losses(shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, labels = batch
        output = own["h"] * (inputs * shared["w"].unsqueeze(-2)).sum(-1).tanh()
        return (output - labels).square().mean(-1), {}


def test_any_task_loss_will_do_and_the_derivative_is_that_of_the_equation() -> None:
    """By torch.func through θ' = θ − α (r ∇Σ λL + μ m + δ θ), written out for a network that is not ours."""
    network, data = Bare(), Regression()
    optimizer = torch.optim.SGD(network.parameters(), **MOMENTUM)
    primary = torch.tensor([True, False, True])
    probe = Probe(lambda ahead: None)
    method = MultiTaskOptimizer(network, optimizer, probe, primary=primary)
    for k in range(3):
        method.step(network.losses, data.batch(2 * k), data.batch(2 * k + 1))
    w, h = network.shared["w"].detach().clone(), network.own["h"].detach().clone()
    memory = [optimizer.state[p]["momentum_buffer"].clone() for p in (network.shared["w"], network.own["h"])]

    def losses(theta: Any, batch: Any) -> Tensor:
        return network.losses({"w": theta[0]}, {"h": theta[1]}, {}, batch)[0]

    def primary_loss(weights: Tensor) -> Tensor:
        gradients = grad(lambda theta: (losses(theta, data.batch(6)) * weights).sum() / T)((w, h))
        moved = [p - 0.03 * (g + 0.9 * m + 0.01 * p) for p, g, m in zip((w, h), gradients, memory, strict=True)]
        return (losses(moved, data.batch(7)) * primary).sum()

    probe.examine = derivatives
    method.step(network.losses, data.batch(6), data.batch(7))
    exact, difference, unrolled = probe.found[-1]
    expected = jacrev(primary_loss)(WEIGHTS)
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(unrolled, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(difference, expected, rtol=0.01, atol=1e-6)


CASES = {
    "ordinary": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "identical": [[1.0, 0.0, 0.0]] * 3,
    "zero": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    "opposed": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]],
    "nothing": [[0.0, 0.0, 0.0]] * 3,
}
"""Row i: task i's loss as a combination of the losses on three data sets."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_estimators_agree_on_degenerate_tasks_at_every_scale(case: str, scale: float) -> None:
    """Losses of `scale`, and a learning rate that gives the step the same length at each scale."""
    network, data, mixture = Bare(), Regression(), torch.tensor(CASES[case], dtype=torch.float64)

    def losses(shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Row i of the mixture, applied to the losses of the three data sets under the weights of task i."""
        inputs, labels = batch
        output = own["h"].unsqueeze(1) * torch.einsum("ti,kbi->tkb", shared["w"].expand(T, -1), inputs).tanh()
        return scale * (mixture * (output - labels).square().mean(-1)).sum(-1), {}

    probe, sgd = Probe(derivatives), torch.optim.SGD(network.parameters(), lr=0.03 / scale)
    MultiTaskOptimizer(network, sgd, probe).step(losses, data.batch(0), data.batch(1))
    exact, difference, unrolled = probe.found[0]
    assert exact.isfinite().all()
    torch.testing.assert_close(exact, unrolled, rtol=1e-9, atol=1e-12 * scale)
    torch.testing.assert_close(difference, exact, rtol=0.01, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e10])
def test_the_weight_of_one_task_rises(scale: float) -> None:
    """If both batches are equal, the task's step helps it: λ rises by Adam's rate.

    It rises by less where the derivative is smaller than Adam's ε (1e-8).
    """
    problem = Regression(tasks=1)
    original, batch = problem.losses, problem.batch()
    problem.losses = lambda *arguments: (scale * original(*arguments)[0], {})  # type: ignore[method-assign]
    method = problem.optimizer(config(WEIGHTINGS, "auto_lambda", learning_rate=0.01), "none", sgd={"lr": 1e-3 / scale})
    weights = torch.cat([method.step(problem.losses, batch, batch)["weight"] for _ in range(5)])
    full = 0.1 + 0.01 * torch.arange(1, 6, dtype=torch.float64)
    assert (weights <= full + 1e-4).all() and (weights.diff() > 0).all()
    if scale >= 1e-3:
        torch.testing.assert_close(weights, full, rtol=0, atol=1e-4)


def test_adam_is_not_preconditioned() -> None:
    problem = Regression()
    adam = torch.optim.Adam(problem.network.parameters(), lr=0.02)
    method = MultiTaskOptimizer(problem.network, adam, Probe(derivatives))
    problem.train(method, 4)
    again = Regression()
    again.network.load_state_dict(problem.network.state_dict())
    probes = []
    for optimizer in (adam, torch.optim.SGD(again.network.parameters(), lr=0.02)):
        network = problem.network if optimizer is adam else again.network
        probes.append(Probe(derivatives))
        (problem if optimizer is adam else again).train(MultiTaskOptimizer(network, optimizer, probes[-1]), 1, first=4)
    for ours, plain in zip(probes[0].found[0], probes[1].found[0], strict=True):
        torch.testing.assert_close(ours, plain)


class Stirred:
    """A regression whose every forward pass changes a buffer in place, as batch norm does."""

    def __init__(self) -> None:
        self.problem = Regression("superposition")
        self.calls = 0

    def losses(self, shared: Any, own: Any, own_buffers: Any, batch: Any) -> Any:
        self.calls += 1
        result = self.problem.losses(shared, own, own_buffers, batch)
        for buffer in own_buffers.values():
            buffer.data.add_(0.125)
        return result


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_look_ahead_touches_nothing(estimator: str) -> None:
    """Bit for bit: every parameter, gradient, optimiser state and buffer."""
    stirred = Stirred()
    problem = stirred.problem
    optimizer = torch.optim.SGD(problem.network.parameters(), **MOMENTUM)

    def everything() -> list[Tensor]:
        parameters = list(problem.network.parameters())
        memory = [t for p in parameters for t in optimizer.state[p].values()]
        return [*problem.network.state_dict().values(), *(p.grad for p in parameters if p.grad is not None), *memory]

    def examine(ahead: LookAhead) -> None:
        before, calls = [t.clone() for t in everything()], stirred.calls
        ahead.derivative(WEIGHTS, estimator)
        assert stirred.calls > calls
        assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))

    method = MultiTaskOptimizer(problem.network, optimizer, Probe(examine))
    before = {n: b.clone() for n, b in problem.network.tensors[2].items()}
    for k in range(2):
        method.step(stirred.losses, problem.batch(k), problem.batch(k + 5))
    for name, buffer in problem.network.tensors[2].items():
        assert torch.equal(buffer, before[name] + 0.25), "one change for each training forward pass"


def test_the_step_uses_the_new_weights_on_the_training_batch() -> None:
    problem, twin = Regression(), Regression()
    method = problem.optimizer(config(WEIGHTINGS, "auto_lambda", learning_rate=0.05), "none", sgd={"lr": 0.1})
    metrics = problem.train(method, 1)[0]
    assert (metrics["weight"] != 0.1).all()
    shared, own, buffers = twin.network.tensors
    loss = torch.dot(twin.losses(shared, own, buffers, twin.batch(0))[0], metrics["weight"]) / T
    loss.backward()
    for ours, theirs in zip(problem.network.parameters(), twin.network.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), theirs.detach() - 0.1 * theirs.grad)


def test_sampled_tasks_move_alone_and_all_in_turn() -> None:
    problem = Regression()
    method = problem.optimizer(config(WEIGHTINGS, "auto_lambda", sampled_tasks=2), "none")
    rows = torch.stack([m["weight"] for m in problem.train(method, 12)])
    rows = torch.cat([torch.full((1, T), 0.1), rows.float()])
    assert ((rows.diff(dim=0) != 0).sum(1) == 2).all()
    assert (rows[-1] != 0.1).all()
    with pytest.raises(UserError, match="sampled_tasks"):
        problem.optimizer(config(WEIGHTINGS, "auto_lambda", sampled_tasks=4), "none")


def test_a_second_batch_is_required() -> None:
    problem = Regression()
    with pytest.raises(UserError, match="second batch"):
        problem.optimizer("auto_lambda", "none").step(problem.losses, problem.batch())


def test_without_swapping_weights_learn_from_the_training_batch() -> None:
    """The weights are those of two equal batches, whatever the second batch is (Auto-λ paper, Table 4)."""
    found = []
    for swap in (True, False):
        problem = Regression()
        method = problem.optimizer(config(WEIGHTINGS, "auto_lambda", swap=swap, learning_rate=0.1), "none")
        assert method.needs_second_batch == swap
        for k in range(5):
            second = problem.batch(k) if swap else None if k < 3 else problem.batch(50)
            found.append(method.step(problem.losses, problem.batch(k), second)["weight"])
    found = [found[4], found[9]]
    assert torch.equal(*found) and (found[0] != 0.1).all()


class WithAuxiliaries(Regression):
    """Three tasks on the same 60 inputs, with new noise in every batch.

    Task 0, the primary one, has noisy labels, task 1 exact labels of the same function, and task 2 pure noise.
    """

    def __init__(self) -> None:
        super().__init__("multi_head")
        self.teachers[1] = self.teachers[0]
        torch.manual_seed(0)
        self.inputs = torch.randn(60, INPUT, dtype=torch.float64)

    def batch(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(60, (3, 16), generator=generator)
        inputs = self.inputs[rows]
        labels = (inputs @ self.teachers).squeeze(-1).tanh()
        noise = torch.randn(labels.shape, dtype=torch.float64, generator=generator)
        known, blurred = torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[0.3], [0.0], [1.0]])
        return inputs, labels * known + noise * blurred


@pytest.mark.parametrize("estimator", ["exact", "finite_difference"])
def test_a_noise_task_stays_low_and_a_helpful_one_rises(estimator: str) -> None:
    problem = WithAuxiliaries()
    weighting = config(WEIGHTINGS, "auto_lambda", primary=["0"], learning_rate=3e-3, estimator=estimator)
    method = problem.optimizer(weighting, "none", sgd={"lr": 0.1}, reduction="sum")
    found = problem.train(method, 300)[-1]["weight"]
    assert found[1] > 0.25, "the task with the same function and clean labels helps"
    assert found[2] < 0.15, "noise is of no use, and starts at 0.1"
