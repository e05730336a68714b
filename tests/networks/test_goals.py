"""Networks whose tasks are goals: generated matrices, and batches of some of many tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.core.subset import SomeTasks
from mtrl.networks import NETWORKS, TaskNetwork

GOALS, T, B, INPUT, OUTPUT, WIDTH = 7, 3, 5, 6, 3, 8
GENERATED: dict[str, tuple[str, dict[str, Any]]] = {
    "generated_mint": ("mint", {"generator": "full"}),
    "mint_low_rank": ("mint", {"generator": "low_rank", "rank": 2}),
    "mint_output": ("mint", {"generator": "full", "output_mint": True}),
    "generated_film": ("film", {"generator": "full"}),
    "film_before": ("film", {"generator": "full", "position": "before"}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {**GENERATED, **{kind: (kind, {}) for kind in NETWORKS.kinds}}
ENSEMBLES = pytest.mark.parametrize("ensemble", [None, 2], ids=["single", "twin"])


def codes(count: int = GOALS, seed: int = 0) -> Tensor:
    return torch.rand(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def inputs(tasks: int = T) -> Tensor:
    return torch.randn(tasks, B, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make(case: str, ensemble: int | None = None, *, noise: float = 0.1) -> TaskNetwork:
    """A float64 network, away from its initial values unless `noise` is 0."""
    torch.manual_seed(0)
    kind, options = CASES[case]
    config = NETWORKS.config_class(kind)(width=WIDTH, depth=2, **options)
    factory = NETWORKS.build(config, input_size=INPUT, output_size=OUTPUT)
    network = TaskNetwork(factory, GOALS, ensemble, codes().float()).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return network


def some() -> SomeTasks:
    """Tasks in no order, with codes of their own: new goals near known ones."""
    return SomeTasks(torch.tensor([4, 0, 5]), codes(T, seed=3))


def perceptron(network: TaskNetwork, x: Tensor, member: int | None = None) -> Tensor:
    """linear, ReLU, linear, ReLU, linear in plain torch, with the network's own layers."""
    shared = {name: p if member is None else p[member] for name, p in network.shared.items()}
    layers = [name.removesuffix("/weight") for name in shared if name.endswith("/weight") and "/generator/" not in name]
    layers = [name for name in layers if not any(part in name for part in ("matrix", "left", "right", "bias/"))]
    for number, name in enumerate(layers):
        x = x @ shared[f"{name}/weight"].T + shared[f"{name}/bias"]
        x = x.relu() if number < len(layers) - 1 else x
    assert len(layers) == 3
    return x


@ENSEMBLES
@pytest.mark.parametrize("case", GENERATED)
def test_with_a_zero_generator_the_network_is_the_perceptron(case: str, ensemble: int | None) -> None:
    network, x = make(case, ensemble), inputs()
    with torch.no_grad():
        for name, parameter in network.shared.items():
            if any(part in name for part in ("matrix", "left", "right", "bias/", "generator")):
                parameter.zero_()
    found = network.at(some())(x)  # type: ignore[operator]
    members = [perceptron(network, x, e) for e in range(ensemble or 0)]
    torch.testing.assert_close(found, torch.stack(members) if members else perceptron(network, x))


@pytest.mark.parametrize("case", GENERATED)
def test_generators_start_as_the_perceptron_and_learn_at_once(case: str) -> None:
    network, x = make(case, noise=0.0), inputs()
    output = network.at(some())(x)  # type: ignore[operator]
    torch.testing.assert_close(output, perceptron(network, x))
    output.square().sum().backward()
    moved = {name for name, p in network.shared.items() if p.grad is not None and bool(p.grad.any())}
    generators = {name.rsplit("/output/", 1)[0] for name in network.shared if "/output/" in name}
    assert generators
    # Of U and V only the one that starts at zero can move the output at first.
    late = {name for name in generators if name.endswith("/right")}
    assert generators - late <= {name.rsplit("/output/", 1)[0] for name in moved if "/output/" in name}


@pytest.mark.parametrize("case", GENERATED)
def test_matrices_follow_the_goal_and_nothing_is_owned(case: str) -> None:
    network = make(case)
    assert not len(network.own)
    one, other = (SomeTasks(torch.zeros(T, dtype=torch.int64), code) for code in (codes(T, 3), codes(T, 4)))
    first, second, same = (network.at(goals)(inputs()) for goals in (one, other, replace(one, task=some().task)))  # type: ignore[operator]
    assert not torch.allclose(first, second)
    torch.testing.assert_close(first, same)


def test_the_generated_matrix_is_that_of_the_paper() -> None:
    """Mint paper, Eq. 5: a = M(g) σ(W a + b) + β(g), with M(g) = I + G(g), for each row by itself."""
    network, x, goals = make("generated_mint"), inputs(), some()
    p = {name.removeprefix("0/blocks/"): value.detach() for name, value in network.shared.items()}
    expected = []
    for row, goal in zip(x, goals.code, strict=True):
        a = row
        for layer in ("0", "1"):
            made = {}
            for part in ("matrix", "bias"):
                hidden = (p[f"{layer}/2/{part}/hidden/weight"] @ goal + p[f"{layer}/2/{part}/hidden/bias"]).relu()
                made[part] = p[f"{layer}/2/{part}/output/weight"] @ hidden + p[f"{layer}/2/{part}/output/bias"]
            matrix = torch.eye(WIDTH, dtype=torch.float64) + made["matrix"].view(WIDTH, WIDTH)
            activation = (a @ p[f"{layer}/0/weight"].T + p[f"{layer}/0/bias"]).relu()
            a = activation @ matrix.T + made["bias"]
        expected.append(a @ p["1/weight"].T + p["1/bias"])
    torch.testing.assert_close(network.at(goals)(x), torch.stack(expected))  # type: ignore[operator]


@ENSEMBLES
@pytest.mark.parametrize("case", CASES)
def test_some_tasks_see_what_their_tasks_own(case: str, ensemble: int | None) -> None:
    """With their own codes they give what the whole network gives for these tasks."""
    network, x = make(case, ensemble), inputs(GOALS)
    task = some().task
    goals = SomeTasks(task, codes().float().double()[task])
    found = network.at(goals)(x[task])  # type: ignore[operator]
    torch.testing.assert_close(found, network(x).index_select(-3, task))


@ENSEMBLES
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_some_tasks_equal_separate_autograd_calls(case: str, ensemble: int | None) -> None:
    network, x, goals = make(case, ensemble), inputs(), some()
    view = network.at(goals)
    _, own, buffers = view.tensors
    leaves = view.per_task_leaves()
    output = network.call(leaves, own, buffers, x)
    weights = torch.randn_like(output)
    together = torch.autograd.grad((output * weights).sum(), [*leaves.values(), *own.values()])
    for row in range(T):
        alone = network.at(SomeTasks(goals.task[row : row + 1], goals.code[row : row + 1]))
        loss = (alone(x[row : row + 1]) * weights.narrow(-3, row, 1)).sum()  # type: ignore[operator]
        single = torch.autograd.grad(loss, [*network.shared.values(), *network.own.values()])
        for batched, expected in zip(together[: len(leaves)], single, strict=False):
            torch.testing.assert_close(batched[row], expected, atol=1e-12, rtol=1e-9)
        for batched, expected in zip(together[len(leaves) :], single[len(leaves) :], strict=True):
            torch.testing.assert_close(batched[row], expected[goals.task[row]], atol=1e-12, rtol=1e-9)


def test_auto_generates_where_tasks_are_goals() -> None:
    for kind in ("mint", "film"):
        config = NETWORKS.config_class(kind)()
        assert config.for_goals().generator == "full"
        assert NETWORKS.config_class(kind)(generator="none").for_goals().generator == "none"
    assert NETWORKS.config_class("mlp")().for_goals() == NETWORKS.config_class("mlp")()


def test_a_low_rank_is_smaller() -> None:
    sizes = {
        case: sum(p.numel() for p in make(case).parameters())
        for case in ("generated_mint", "mint_low_rank", "generated_film")
    }
    assert sizes["generated_film"] < sizes["mint_low_rank"] < sizes["generated_mint"]
