"""The step of the highest transference against every candidate step taken by an optimiser of its own, in float64."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.core.errors import UserError
from mtrl.gradients import SURGERIES
from mtrl.gradients.optimizer import MultiTaskOptimizer
from tests.support.gradient_toys import Regression, T, classifier, config, image_batch

SGD: dict[str, Any] = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
SETS = [s for size in range(1, T + 1) for s in itertools.combinations(range(T), size)]


def transference(**options: Any) -> Any:
    return config(SURGERIES, "transference", **options)


def projected(gradients: list[Tensor], noise: Tensor) -> Tensor:
    """Algorithm 1 of PCGrad on whole vectors, each task in the order of its row of the noise."""
    total = torch.zeros_like(gradients[0])
    for i, gradient in enumerate(gradients):
        current = gradient.clone()
        for j in [j for j in noise[i].argsort().tolist() if j != i]:
            product = current @ gradients[j]
            if product < 0:
                current -= product / (gradients[j] @ gradients[j]) * gradients[j]
        total += current
    return total


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def stepped(problem: Regression, sgd: Any, batch: Any, shared: Tensor, weights: Tensor) -> tuple[Any, Tensor]:
    """The network after a step of a copy of the optimiser, and its losses; `shared` are the shared gradients, flat."""
    twin = copy.deepcopy(problem)
    optimizer = torch.optim.SGD(twin.network.parameters(), **SGD)
    optimizer.load_state_dict(copy.deepcopy(sgd.state_dict()))
    own = list(twin.network.own.values())
    found = torch.autograd.grad(twin.losses(*twin.network.tensors, batch)[0] @ weights, own)
    for parameter, gradient in zip(own, found, strict=True):
        parameter.grad = gradient
    sizes = [p.numel() for p in twin.network.shared.values()]
    for parameter, part in zip(twin.network.shared.values(), shared.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.step()
    return twin.network, twin.losses(*twin.network.tensors, batch)[0].detach()


@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("network", ["multi_head", "film"])
@pytest.mark.parametrize("weighting", ["equal", "auto_lambda"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_step_taken_is_the_best_of_all_steps(
    network: str, ensemble: int | None, weighting: str, reduction: str
) -> None:
    problem = Regression(network, ensemble)
    problem.teachers[2] = -problem.teachers[0]
    method = problem.optimizer(weighting, transference(candidates=["pcgrad", "subsets"]), sgd=SGD, reduction=reduction)
    generator = torch.Generator().manual_seed(0)  # as the method's
    chosen = []
    for update in range(6):
        before, state = copy.deepcopy(problem), copy.deepcopy(method.optimizer)
        batch = problem.batch(2 * update)
        metrics = problem.train(method, 1, first=update)[0]
        weights = metrics["weight"].double() / (T if reduction == "mean" else 1)
        losses = before.losses(*before.network.tensors, batch)[0]
        shared = list(before.network.shared.values())
        gradients = [w * flat(torch.autograd.grad(x, shared, retain_graph=True)) for w, x in zip(weights, losses)]  # noqa: B905
        noise = torch.rand(T, T, generator=generator)
        steps = [sum((gradients[i] for i in s), torch.zeros_like(gradients[0])) for s in SETS]
        steps.append(projected(gradients, noise))
        found = [stepped(before, state, batch, step, weights) for step in steps]
        totals = torch.stack([(1 - after / losses.detach()).sum() for _, after in found])
        torch.testing.assert_close(metrics["transference"], totals.max(), rtol=1e-9, atol=1e-12)
        best = int(totals.argmax())
        torch.testing.assert_close(flat(problem.network.parameters()), flat(found[best][0].parameters()))
        chosen.append(best)
    assert weighting != "equal" or len(set(chosen)) > 1, "a problem where one candidate always wins tells little"


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_losses_that_are_not_positive_count_by_their_differences(sign: float) -> None:
    problem = Regression()
    original = problem.losses
    scale = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)

    def losses(*arguments: Any) -> Any:
        values, aux = original(*arguments)
        return scale * values + torch.tensor([0.0, 0.0, 100 * (sign - 1)]), aux

    problem.losses = losses  # type: ignore[method-assign]
    before, batch = copy.deepcopy(problem.network), problem.batch(0)
    metrics = problem.train(problem.optimizer("equal", transference(candidates=["all"])), 1)[0]
    first, after = (losses(*n.tensors, batch)[0].detach() for n in (before, problem.network))
    expected = (first - after).sum() if sign < 0 else (1 - after / first).sum()
    torch.testing.assert_close(metrics["transference"], expected)


def test_only_primary_tasks_count() -> None:
    """The gain is the primary tasks' own, and a step of task 0 alone is never taken for task 1's sake."""
    problem = Regression("mlp")
    problem.teachers[0] = -problem.teachers[1]
    before, batch = copy.deepcopy(problem.network), problem.batch(0)
    method = problem.optimizer("equal", transference(candidates=["0", "1"], primary=["1"]))
    metrics = problem.train(method, 1)[0]
    first, after = (problem.losses(*n.tensors, batch)[0].detach() for n in (before, problem.network))
    torch.testing.assert_close(metrics["transference"], (1 - after / first)[1])
    assert metrics["chosen/1"] == 1 and metrics["chosen/0"] == 0


def test_shares_are_of_recent_updates() -> None:
    problem = Regression()
    method: MultiTaskOptimizer = problem.optimizer("equal", transference(candidates=["single", "all"]))
    seen = []
    for update in range(5):
        metrics = problem.train(method, 1, first=update)[0]
        shares = {name: float(value) for name, value in metrics.items() if name.startswith("chosen/")}
        previous = seen[-1] if seen else dict.fromkeys(shares, 0.0)
        rise = {name: round(shares[name] * (update + 1) - previous[name] * update, 4) for name in shares}
        assert sorted(rise.values()) == [0, 1], "one candidate more in each update"
        seen.append(shares)


@pytest.mark.parametrize("shared_input", [False, True])
def test_trial_steps_move_no_statistics(shared_input: bool) -> None:
    found = []
    for surgery in ("none", "transference"):
        agent = classifier(surgery=surgery, shared_input=shared_input)
        agent.update(image_batch(0, shared_input))
        found.append(dict(agent.network.own_buffers))
    assert found[0]
    for name, statistics in found[0].items():
        torch.testing.assert_close(found[1][name], statistics)


@pytest.mark.parametrize(
    ("candidates", "match"),
    [
        ([], "give at least one combination of 3 tasks"),
        (["every"], "indexes below 3 such as 0\\+1"),
        (["0+3"], "indexes below 3"),
        (["1+1"], "indexes below 3"),
    ],
)
def test_candidates_that_mean_nothing_are_refused(candidates: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        SURGERIES.build(transference(candidates=candidates), num_tasks=T)


def test_one_task_has_no_pairs_and_no_others() -> None:
    with pytest.raises(UserError, match="give at least one combination of 1 tasks"):
        SURGERIES.build(transference(candidates=["pairs", "others"]), num_tasks=1)


def test_subsets_of_many_tasks_are_refused() -> None:
    with pytest.raises(UserError, match=r"without subsets for more than 10 tasks\. Found .subsets of 11"):
        SURGERIES.build(transference(candidates=["subsets"]), num_tasks=11)
