"""Every architecture on the task axis, against T networks called one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.networks import NETWORKS, TaskNetwork
from mtrl.networks.layers import CodedLinear, LayerNorm, Linear, TaskCode, owned
from mtrl.networks.superposition import SuperposedLinear

T, B, INPUT, OUTPUT = 4, 5, 7, 3
ENSEMBLES = pytest.mark.parametrize("ensemble", [None, 2], ids=["single", "twin"])
KINDS = pytest.mark.parametrize("kind", NETWORKS.kinds)


def make(kind: str, ensemble: int | None = None, **options: object) -> TaskNetwork:
    """A float64 network away from its initial values, where identities could hide mistakes."""
    torch.manual_seed(0)
    config = NETWORKS.config_class(kind)(width=8, **options)
    network = TaskNetwork(NETWORKS.build(config, input_size=INPUT, output_size=OUTPUT), T, ensemble).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs() -> Tensor:
    return torch.randn(T, B, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@KINDS
@ENSEMBLES
@pytest.mark.parametrize("layer_norm", [False, True])
def test_per_task_gradients_equal_separate_autograd_calls(kind: str, ensemble: int | None, layer_norm: bool) -> None:
    network, x = make(kind, ensemble, layer_norm=layer_norm), inputs()
    shared, own, buffers = network.tensors
    leaves = network.per_task_leaves()
    output = network.call(leaves, own, buffers, x)
    weights = torch.randn_like(output)
    together = torch.autograd.grad((output * weights).sum(), [*leaves.values(), *own.values()])
    for task in range(T):
        loss = (network(x) * weights).select(-3, task).sum()
        alone = torch.autograd.grad(loss, [*shared.values(), *own.values()])
        for batched, single in zip(together[: len(leaves)], alone, strict=False):
            torch.testing.assert_close(batched[task], single, atol=1e-12, rtol=1e-10)
        for batched, single in zip(together[len(leaves) :], alone[len(leaves) :], strict=True):
            torch.testing.assert_close(batched[task], single[task], atol=1e-12, rtol=1e-10)
            others = [other for other in range(T) if other != task]
            assert not single[others].any(), "a task moves what another task owns"


@KINDS
@ENSEMBLES
def test_the_per_task_forward_is_the_joint_one(kind: str, ensemble: int | None) -> None:
    network, x = make(kind, ensemble), inputs()
    _, own, buffers = network.tensors
    torch.testing.assert_close(network.call(network.per_task_leaves(), own, buffers, x), network(x))


@KINDS
@ENSEMBLES
def test_the_shape_is_task_major(kind: str, ensemble: int | None) -> None:
    lead = () if ensemble is None else (ensemble,)
    assert make(kind, ensemble)(inputs()).shape == (*lead, T, B, OUTPUT)


@KINDS
def test_one_task_alone_is_the_same_network(kind: str) -> None:
    """What a task computes depends neither on the other tasks' inputs nor on their rows."""
    network, x = make(kind), inputs()
    changed = torch.randn_like(x)
    changed[2] = x[2]
    torch.testing.assert_close(network(changed)[2], network(x)[2])


@KINDS
def test_ensemble_members_differ(kind: str) -> None:
    first, second = make(kind, 2)(inputs())
    assert (first - second).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", [k for k in NETWORKS.kinds if k != "independent"])
def test_double_backward_through_the_per_task_gradients(kind: str) -> None:
    """Regularisers on gradients differentiate them again."""
    network, x = make(kind), inputs()
    _, own, buffers = network.tensors
    names = list(network.per_task_leaves())

    def gradient_norm(*tensors: Tensor) -> Tensor:
        leaves = {n: t.expand(T, *t.shape) for n, t in zip(names, tensors, strict=True)}
        loss = network.call(leaves, own, buffers, x).tanh().square().sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        return sum((g.square().sum() for g in gradients), torch.zeros((), dtype=torch.float64))

    tensors = [network.shared[n].detach().clone().requires_grad_() for n in names]
    norm = gradient_norm(*tensors)
    exact = torch.autograd.grad(norm, tensors, allow_unused=True)
    direction = [torch.randn_like(t) for t in tensors]
    step = 1e-6
    moved = [gradient_norm(*[t + s * step * d for t, d in zip(tensors, direction, strict=True)]) for s in (1, -1)]
    numerical = (moved[0] - moved[1]) / (2 * step)
    product = sum((e * d).sum() for e, d in zip(exact, direction, strict=True) if e is not None)
    torch.testing.assert_close(product, numerical, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mark", [lambda module: module, owned], ids=["shared", "owned"])
@pytest.mark.parametrize("layer", [nn.Linear(INPUT, OUTPUT), nn.LayerNorm(INPUT), nn.BatchNorm1d(INPUT), nn.PReLU()])
def test_layers_that_know_of_no_task_axis_are_refused(layer: nn.Module, mark: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(UserError, match=rf"Part `1` .* accepts a task axis.* Found 'torch.nn.{type(layer).__name__}'"):
        TaskNetwork(lambda code: nn.Sequential(nn.ReLU(), mark(copy.deepcopy(layer))), T)


@pytest.mark.parametrize("factory", [None, nn.ReLU(), lambda code: None])
def test_what_makes_no_network_is_refused_in_one_line(factory: Any) -> None:
    with pytest.raises(UserError, match=r"should be a (function of a task's code that gives a m|torch.nn.M)odule"):
        TaskNetwork(factory, T)


def test_independent_networks_share_nothing() -> None:
    assert not make("independent").shared


@pytest.mark.parametrize(("kind", "options"), [("mint", {}), ("film", {}), ("film", {"position": "before"})])
def test_identity_modulation_is_the_plain_network(kind: str, options: dict[str, str]) -> None:
    """Mint at (I, 0) and FiLM at (1, 0) change nothing: the outputs of the same trunk and head without them."""
    torch.manual_seed(0)
    config = NETWORKS.config_class(kind)(width=8, **options)
    network = TaskNetwork(NETWORKS.build(config, input_size=INPUT, output_size=OUTPUT), T).double()
    weights = [p for n, p in network.shared.items() if n.endswith("weight")]
    biases = [p for n, p in network.shared.items() if n.endswith("bias")]
    x = inputs()
    expected = x
    for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        expected = expected @ weight.T + bias
        if depth < len(weights) - 1:
            expected = expected.relu()
    torch.testing.assert_close(network(x), expected)


def test_mint_multiplies_after_the_activation() -> None:
    """y = M σ(Wx + b) + β, written out for one hidden layer."""
    network, x = make("mint", depth=1), inputs()
    shared, own = dict(network.shared.items()), dict(network.own.items())
    weight, head = (shared[n] for n in shared if n.endswith("weight"))
    bias, head_bias = (shared[n] for n in shared if n.endswith("bias"))
    matrix = next(v for n, v in own.items() if n.endswith("matrix"))
    shift = next(v for n, v in own.items() if n.endswith("bias"))
    hidden = (x @ weight.T + bias).relu()
    mixed = torch.einsum("tij,tbj->tbi", matrix, hidden) + shift.unsqueeze(1)
    torch.testing.assert_close(network(x), mixed @ head.T + head_bias)


def test_the_code_reaches_the_layers_that_should_see_it() -> None:
    """Parameters of the code: in the first layer of an MLP, in all of concat-all, in none of a multi-head one."""
    counts = {
        kind: sum(n.endswith("code_linear/weight") for n in make(kind).shared)
        for kind in ("mlp", "concat_all", "multi_head")
    }
    assert counts == {"mlp": 1, "concat_all": 4, "multi_head": 0}


def test_superposition_turns_every_layers_input_by_a_fixed_rotation_of_each_task() -> None:
    """y = W C_i x + b in float64, with C_i orthogonal, different in each task and layer."""
    network, x = make("superposition"), inputs()
    rotations = list(network.own_buffers.values())
    assert [len(r[0]) for r in rotations] == [INPUT, 8, 8, 8]
    assert not any("context" in name for name, _ in network.named_parameters())
    weights = [p for n, p in network.shared.items() if n.endswith("weight")]
    biases = [p for n, p in network.shared.items() if n.endswith("bias")]
    for task in range(T):
        hidden = x[task]
        for depth, (rotation, weight, bias) in enumerate(zip(rotations, weights, biases, strict=True)):
            context = rotation[task]
            torch.testing.assert_close(context @ context.T, torch.eye(len(context)).double(), atol=1e-5, rtol=0)
            assert all((context - rotation[other]).abs().max() > 0.1 for other in range(task))
            hidden = (weight @ (context @ hidden.T)).T + bias
            hidden = hidden.relu() if depth < 3 else hidden
        torch.testing.assert_close(network(x)[task], hidden)


def test_binary_superposition_contexts_are_fixed_signs_of_each_task() -> None:
    network = make("superposition", context="binary")
    contexts = [b for b in network.own_buffers.values()]
    assert len(contexts) == 4
    for context in contexts:
        assert set(context.unique().tolist()) == {-1.0, 1.0}
    assert any((c[0] != c[1]).any() for c in contexts)
    assert not any("context" in name for name, _ in network.named_parameters())


def test_soft_modular_routing_follows_the_paper() -> None:
    """Two layers of two modules for one state, equation by equation."""
    network, x = make("soft_modular", depth=2, modules=2, module_width=6), inputs()
    p = {
        k: v[0] if v.shape[0] == T and k in network.own else v
        for k, v in [*network.shared.items(), *network.own.items()]
    }

    def layer(name: str, v: Tensor) -> Tensor:
        return p[f"{name}/weight"] @ v + p[f"{name}/bias"]

    s = x[0, 0]
    f = layer("embedding/blocks/0/0", s).relu()
    gate = layer("state_query", f) * p["query/value"]
    g = [layer(f"layers/0/linears/{j}", f).relu() for j in range(2)]
    routing = layer("routers/0", gate.relu()).view(2, 2).softmax(-1)
    second = [layer(f"layers/1/linears/{i}", routing[i] @ torch.stack(g)).relu() for i in range(2)]
    expected = sum(layer(f"heads/{j}", second[j]) for j in range(2))
    torch.testing.assert_close(network(x)[0, 0], expected)


@KINDS
def test_state_dict_restores_the_function(kind: str) -> None:
    network, other = make(kind, 2), make(kind, 2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(inputs()), network(inputs()), atol=0, rtol=0)


@KINDS
def test_a_copy_stands_on_its_own(kind: str) -> None:
    network = make(kind, 2)
    expected = network(inputs())
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(inputs()), expected, atol=0, rtol=0)


def test_a_shared_layer_norm_has_the_derivatives_of_separate_ones() -> None:
    """First and second ones, by each task's own scale and shift, as separate tensors give them."""
    norm, width = LayerNorm(6).double(), 6
    x = torch.randn(T, B, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    target = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    start = torch.rand(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.5

    def derivatives(own: bool) -> list[Tensor]:
        leaves = [row.repeat(T, 1) if own else row.expand(T, width) for row in start]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        del norm.scale, norm.shift
        norm.scale, norm.shift = leaves  # type: ignore[assignment]
        first = torch.autograd.grad((norm(x).sin() * target).sum(), [x, *leaves], create_graph=True)
        curved = torch.stack([(gradient.square() * gradient.exp()).sum() for gradient in first]).sum()
        second = torch.autograd.grad(curved, [x, *leaves])
        return [*first, *second]

    for shared, own in zip(derivatives(False), derivatives(True), strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", sorted(set(NETWORKS.kinds) - {"superposition"}))
@ENSEMBLES
def test_entries_of_tasks_alone_tell_tasks_apart(kind: str, ensemble: int | None) -> None:
    network, x = make(kind, ensemble), inputs()[:1].expand(T, -1, -1)
    source = torch.tensor([2, 1, 0, 2])
    wanted = network(x).index_select(-3, source)
    with torch.no_grad():
        for parameter, axis in network.entries_of_tasks():
            parameter.copy_(parameter.index_select(axis, source))
    torch.testing.assert_close(network(x), wanted)


class Gated(nn.Module):
    """Uses its code in a way that `TaskNetwork` does not know of."""

    def __init__(self, code: Tensor) -> None:
        super().__init__()
        self.code, self.linear = owned(TaskCode(code)), Linear(INPUT, T)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.code(x)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Gated, "go only through shared layers"),
        (lambda code: owned(CodedLinear(INPUT, OUTPUT, code)), "go only through shared layers"),
        (lambda _: SuperposedLinear(INPUT, OUTPUT, "binary"), "fixed buffers.*context.value"),
    ],
)
def test_entries_of_tasks_are_refused_where_tasks_differ_in_other_ways(factory: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskNetwork(factory, T).entries_of_tasks()


def test_a_layer_with_the_tasks_code_may_be_the_first_on_shared_inputs() -> None:
    def build(code: Tensor) -> nn.Module:
        return nn.Sequential(CodedLinear(INPUT, 6, code), nn.ReLU(), Linear(6, OUTPUT))

    made = []
    for shared in (True, False):
        torch.manual_seed(0)
        made.append(TaskNetwork(build, T, shared_input=shared).double())
    x = inputs()[:1]
    torch.testing.assert_close(made[0](x), made[1](x.expand(T, -1, -1)))
