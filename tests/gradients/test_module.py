"""`ModuleOptimizer`: the losses of an ordinary module, by every method, against the task axis, PyTorch and torchjd."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.gradients import SURGERIES, WEIGHTINGS, ModuleOptimizer
from tests.support.gradient_toys import INPUT, Regression, T, config

HEADS = {f"heads.{task}": task for task in range(T)}
METHODS = [*((kind, "none") for kind in WEIGHTINGS.kinds if kind != "softmax_temperature")]
METHODS += [("equal", kind) for kind in SURGERIES.kinds] + [("dwa", "pcgrad")]


class Net(nn.Module):
    """One trunk, one head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(INPUT, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(8, 1) for _ in range(T)])

    def forward(self, x: Tensor, task: int) -> Tensor:
        return self.heads[task](self.trunk(x)).squeeze(-1)

    def losses(self, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
        return [(self(x, task) - y).square().mean() for task, (x, y) in enumerate(zip(*batch, strict=True))]


@pytest.fixture
def problem() -> tuple[Regression, Net]:
    """The same network with a task axis, and as an ordinary module."""
    regression, net = Regression(), Net().double()
    with torch.no_grad():
        for (_, parameter), ours in zip(net.trunk.named_parameters(), regression.network.shared.values(), strict=True):
            parameter.copy_(ours)
        for task, head in enumerate(net.heads):
            for parameter, ours in zip(head.parameters(), regression.network.own.values(), strict=True):
                parameter.copy_(ours[task])
    return regression, net


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 1e-2)


def differentiated(net: Net) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("owned", [None, HEADS], ids=["found", "named"])
@pytest.mark.parametrize("weighting, surgery", METHODS)
def test_every_method_does_what_it_does_on_the_task_axis(
    weighting: str, surgery: str, owned: dict[str, int] | None, problem: tuple[Regression, Net]
) -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    regression, net = problem
    plain = regression.optimizer(weighting, surgery, sgd={"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01})
    step = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    chosen: dict[str, Any] = {"weighting": config(WEIGHTINGS, weighting), "surgery": config(SURGERIES, surgery)}
    ours = ModuleOptimizer(net, step, T, owned=owned, generator=torch.Generator().manual_seed(0), **chosen)
    for update in range(4):
        batches = regression.batch(2 * update), regression.batch(2 * update + 1)
        expected = plain.step(regression.losses, *batches)
        first, second = (lambda b=b: net.losses(b) for b in batches)
        found = ours.step(first, second)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=name)
    for (_, parameter), kept in zip(net.trunk.named_parameters(), regression.network.shared.values(), strict=True):
        torch.testing.assert_close(parameter, kept, rtol=1e-6, atol=1e-9)
    for task, head in enumerate(net.heads):
        for parameter, kept in zip(head.parameters(), regression.network.own.values(), strict=True):
            torch.testing.assert_close(parameter, kept[task], rtol=1e-6, atol=1e-9)


def test_without_a_method_it_is_plain_pytorch(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    plain = Net().double()
    plain.load_state_dict(net.state_dict())
    ours, theirs = ModuleOptimizer(net, adam(net), T, reduction="sum"), adam(plain)
    for update in range(3):
        ours.step(net.losses(regression.batch(update)))
        theirs.zero_grad()
        torch.stack(plain.losses(regression.batch(update))).sum().backward()
        theirs.step()
    for found, kept in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, kept, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind, name", [("upgrad", "UPGrad"), ("cagrad", "CAGrad"), ("aligned_mtl", "AlignedMTL")])
def test_shared_and_owned_gradients_are_torchjds(kind: str, name: str, problem: tuple[Regression, Net]) -> None:
    """Of losses with common features, by `mtl_backward`; heads get their own loss's gradient in both."""
    aggregation: Any = pytest.importorskip("torchjd.aggregation", reason="the extra `surgery` is not installed")
    autojac: Any = pytest.importorskip("torchjd.autojac")
    regression, net = problem
    x, labels = regression.batch()[0][0], regression.batch()[1]

    def losses(features: Tensor) -> list[Tensor]:
        return [(head(features)[:, 0] - y).square().mean() for head, y in zip(net.heads, labels, strict=True)]

    features = net.trunk(x)
    autojac.mtl_backward(losses(features), features=features)
    options = {"c": 0.4} if kind == "cagrad" else {}
    autojac.jac_to_grad(net.trunk.parameters(), getattr(aggregation, name)(**options))
    kept = differentiated(net)
    ModuleOptimizer(net, adam(net), T, surgery=kind).backward(losses(net.trunk(x)))
    found = differentiated(net)
    shared = len(list(net.trunk.parameters()))
    for ours, theirs in zip(found[:shared], kept[:shared], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    for ours, theirs in zip(found[shared:], kept[shared:], strict=True):
        torch.testing.assert_close(T * ours, theirs)  # the mean of the losses


def test_a_backward_pass_and_a_step_of_ones_own_are_a_step(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    other = Net().double()
    other.load_state_dict(net.state_dict())
    whole, half, own = (ModuleOptimizer(net, adam(net), T, surgery="pcgrad", generator=torch.Generator()),
                        ModuleOptimizer(other, adam(other), T, surgery="pcgrad", generator=torch.Generator()),
                        adam(other))  # fmt: skip
    for update in range(3):
        whole.step(net.losses(regression.batch(update)))
        half.backward(other.losses(regression.batch(update)))
        own.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_what_two_losses_depend_on_is_shared_and_what_none_does_too(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    batch = regression.batch()
    net.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    ours = ModuleOptimizer(net, torch.optim.SGD(net.parameters(), 0.1), T, surgery="pcgrad")

    def losses() -> list[Tensor]:
        first, second, third = net.losses(batch)
        return [first, second + net(batch[0][0], 0).mean(), third]

    ours.step(losses())
    assert ours.owner == {f"heads.{t}.{name}": t for t in (1, 2) for name in ("weight", "bias")}
    assert net.unused.detach().tolist() == [1, 1]  # pyright: ignore[reportCallIssue]


def test_looking_again_moves_no_statistics() -> None:
    """A batch norm learns from one forward pass an update, however often a weighting computes the losses."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x = torch.randn(8, 3)
    kept = nn.BatchNorm1d(4)
    kept(net[0](x))
    outputs: Callable[[], list[Tensor]] = lambda: [y.square().mean() for y in net(x).unbind(1)]  # noqa: E731
    ModuleOptimizer(net, adam(net), 2, weighting="auto_lambda", owned={}).step(outputs, outputs)
    assert net[1].num_batches_tracked == 1
    torch.testing.assert_close(net[1].running_mean, kept.running_mean)


def test_the_state_of_the_methods_is_saved(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    saved = ModuleOptimizer(net, adam(net), T, weighting="uncertainty", surgery="pcgrad")
    for update in range(3):
        saved.step(net.losses(regression.batch(update)))
    loaded = ModuleOptimizer(net, adam(net), T, weighting="uncertainty", surgery="pcgrad")
    loaded.load_state_dict(saved.state_dict())
    found = loaded.backward(net.losses(regression.batch(9)))
    torch.testing.assert_close(found["weight"], saved.backward(net.losses(regression.batch(9)))["weight"])


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize(
    ("given", "found"),
    [
        (lambda losses: losses[:2], "'tensor (), tensor ()'"),
        (lambda losses: [*losses[:2], losses[2].expand(2)], "'tensor (), tensor (), tensor (2,)'"),
        (lambda losses: dict(enumerate(losses)), "'one dict'"),
        (lambda losses: [loss.item() for loss in losses], "'float, float, float'"),
        (lambda losses: sum(losses), "'one tensor ()'"),
        (lambda losses: losses[0].item(), "'one float'"),
        (lambda losses: [*losses[:2], losses[2].detach()], "'tensor (), tensor (), detached tensor ()'"),
        (lambda losses: [*losses[:2], torch.zeros((), requires_grad=True)], "'number 2, which depends on none'"),
    ],
)
def test_what_are_no_losses_of_the_module_is_refused(
    given: Callable[[list[Tensor]], Any], found: str, surgery: str, problem: tuple[Regression, Net]
) -> None:
    regression, net = problem
    made, losses = ModuleOptimizer(net, adam(net), T, surgery=surgery), net.losses(regression.batch())
    what = "Losses should be a list of 3 scalar tensors that depend on the module's parameters."
    for use in (made.step, made.backward):
        with pytest.raises(UserError, match=re.escape(f"{what} Found {found}.")):
            use(given(losses))


def test_what_does_not_fit_is_refused_in_one_line(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    losses = net.losses(regression.batch())

    def made(**options: Any) -> ModuleOptimizer:
        return ModuleOptimizer(net, adam(net), T, **options)

    with pytest.raises(UserError, match="Losses should be a list of scalars, from which owners"):
        made().step(torch.stack(losses))
    assert made(owned=HEADS).step(torch.stack(losses))["loss"].shape == (T,)
    with pytest.raises(UserError, match="names of the module's parameters or parts"):
        made(owned={"head": 0})
    with pytest.raises(UserError, match="tasks below 3"):
        made(owned={"heads.0": 3})
    with pytest.raises(UserError, match="should be a function that computes them"):
        made(weighting="famo").step(losses)
    with pytest.raises(UserError, match="second batch"):
        made(weighting="auto_lambda").step(lambda: net.losses(regression.batch()))
    with pytest.raises(UserError, match=r"surgery` should be one of .* Did you mean 'pcgrad'"):
        made(surgery="pcgrd")
    for wrong in (None, SURGERIES.build(config(SURGERIES, "pcgrad"), num_tasks=T), config(WEIGHTINGS, "dwa")):
        with pytest.raises(UserError, match="`surgery` should be a method's name, or a configuration"):
            made(surgery=wrong)
    with pytest.raises(UserError, match=r"Argument `reduction` should be mean or sum\. Found 'summ'"):
        made(reduction="summ")
    with pytest.raises(TypeError, match=r"^ModuleOptimizer.* 'surgry'"):
        made(surgry="pcgrad")
    with pytest.raises(UserError, match="Surgery should be used with a network that shares parameters"):
        heads = ModuleOptimizer(net.heads, adam(net.heads), T, surgery="pcgrad")
        heads.step([head(torch.ones(8, dtype=torch.float64)).sum() for head in net.heads])


@pytest.mark.parametrize("weighting, surgery", METHODS)
def test_a_parameter_may_be_a_single_number(weighting: str, surgery: str) -> None:
    """It learns as one of shape (1,) does, shared or owned."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")

    class Scaled(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.shared = nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64))
            self.own = nn.ParameterList([torch.full(shape, 1.0 + task, dtype=torch.float64) for task in range(T)])

        def losses(self, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
            parts = enumerate(zip(*batch, strict=True))
            return [(self.shared * self.own[task] * x.sum(-1) - y).square().mean() for task, (x, y) in parts]

    ends = []
    for net in (Scaled(), Scaled(1)):
        methods: dict[str, Any] = {"weighting": config(WEIGHTINGS, weighting), "surgery": config(SURGERIES, surgery)}
        step = torch.optim.SGD(net.parameters(), 1e-3)
        owned = {f"own.{task}": task for task in range(T)}
        ours = ModuleOptimizer(net, step, T, owned=owned, generator=torch.Generator().manual_seed(0), **methods)
        for update in range(3):
            first, second = (Regression().batch(2 * update + k) for k in (0, 1))
            ours.step(lambda net=net, b=first: net.losses(b), lambda net=net, b=second: net.losses(b))
        ends.append(torch.stack([parameter.reshape(()) for parameter in net.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [{"weighting": "auto_lambda"}, {"weighting": "famo"}, {"surgery": "transference"}])
def test_trial_steps_have_the_dropout_masks_of_the_update(
    method: dict[str, Any], problem: tuple[Regression, Net]
) -> None:
    regression, net = problem
    made, masks = ModuleOptimizer(net, adam(net), T, owned=HEADS, **method), []

    def losses() -> list[Tensor]:
        masks.append(nn.functional.dropout(torch.ones(64)))
        return net.losses(regression.batch())

    for updates in (1, 2):
        masks.clear()
        made.step(losses, losses)
        assert len(masks) > 1 and all(torch.equal(mask, masks[0]) for mask in masks), updates


def test_parameters_without_an_optimiser_keep_no_gradients(problem: tuple[Regression, Net]) -> None:
    """Their gradients do not pile up from step to step, where they would enter the norm for clipping."""
    regression, net = problem
    some = torch.optim.SGD(net.heads.parameters(), 0.0)
    made = ModuleOptimizer(net, some, T, owned=HEADS, max_grad_norm=1.0)
    norms = {float(made.step(net.losses(regression.batch()))["grad_norm"]) for _ in range(3)}
    assert len(norms) == 1


@pytest.mark.parametrize("method", [{"surgery": "pcgrad"}, {"surgery": "graddrop"}, {"weighting": "auto_lambda"}])
def test_losses_and_parameters_may_differ_in_type(method: dict[str, Any], problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    net.bfloat16()
    made = ModuleOptimizer(net, torch.optim.SGD(net.parameters(), 1.0), T, owned=HEADS, **method)
    parameter = next(iter(net.parameters()))
    before = parameter.clone()
    x, y = (part.bfloat16() for part in regression.batch())

    def losses() -> list[Tensor]:
        return [loss.float() for loss in net.losses((x, y))]

    made.step(losses, losses)
    assert parameter.isfinite().all() and not torch.equal(parameter, before)


def test_one_loss_is_a_task_like_any_other(problem: tuple[Regression, Net]) -> None:
    regression, net = problem
    made = ModuleOptimizer(net, adam(net), 1, surgery="pcgrad")
    assert made.step(net.losses(regression.batch())[:1])["weight"].tolist() == [1.0]
