"""Networks from outside mtrl: those that cannot be used are refused in one line before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.networks import IMAGE_NETWORKS, NETWORKS, NetworkConfig, TaskNetwork
from mtrl.networks.layers import Linear, TaskVector, owned
from mtrl.networks.trial import build_classifier, build_tried, build_trunk
from tests.support import outside

T, B, INPUT, OUTPUT = 4, 5, 7, 3
ENSEMBLES = pytest.mark.parametrize("ensemble", [None, 2], ids=["single", "twin"])


class Mine(nn.Module):
    """A user's linear network with a vector for each task. `change` is applied to its output."""

    def __init__(self, change: Callable[[Any, Tensor, Tensor], Any], outputs: int = OUTPUT) -> None:
        super().__init__()
        self.change = change
        self.linear, self.vector = Linear(INPUT, outputs), owned(TaskVector(torch.randn(outputs), trained=True))
        self.plain = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Any:
        return self.change(self, x, self.linear(x) + self.vector(x))


class Nothing(nn.Module):
    """A module without a forward method."""


def named_mine() -> NetworkConfig:
    config = NetworkConfig()
    config.kind = "mine"  # type: ignore[attr-defined]
    return config


def tried(patch: pytest.MonkeyPatch, factory: Any, ensemble: int | None) -> Any:
    outside.add(patch, NETWORKS, "mine", build=lambda config, *, input_size, output_size: factory)
    return build_tried(named_mine(), torch.eye(T), ensemble, input_size=INPUT, output_size=OUTPUT)


@ENSEMBLES
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Mine(lambda m, x, y: y, OUTPUT + 1), r"Mine, of network=mine,.* 5, 3\) .*Found \(.*3, 5, 4\)\."),
        (lambda: Mine(lambda m, x, y: (y, x)), r"Mine, of network=mine, .* Found 'tuple'\."),
        (lambda: Mine(lambda m, x, y: y.flatten(1)), r"Mine, .* Found \("),
        (lambda: Mine(lambda m, x, y: y * m.plain), r"'RuntimeError: .*test_trial.py, line .*`plain`, a TaskV"),
        (lambda: Mine(lambda m, x, y: y.detach()), r"Mine, .* output depends on its parameters\. Found 'a detached"),
        (lambda: Mine(lambda m, x, y: y / 0), r"Mine, .* 3 numbers for each row, all finite\. Found 'NaN or infinity'"),
        (lambda: Mine(lambda m, x, y: y - y.log().detach()), r"Mine, .* all finite\. Found 'NaN or infinity'"),
        (lambda: Mine(lambda m, x, y: y + (y - y).sqrt()), r"Mine, .* whose derivatives are finite\. Found 'NaN"),
        (lambda: Mine(lambda m, x, y: F.dropout(y)), r"Mine, .* without randomness such as dropout"),
        (lambda: Mine(lambda m, x, y: y - y.mean(-2, keepdim=True)), r"Mine, .* row that depends on another"),
        (lambda: Mine(lambda m, x, y: y - y.flip(-3)), r"Mine, .* row that depends on another"),
        (Nothing, r"Nothing, .* missing the required \"forward\""),
        (
            lambda: owned(cast("Any", nn.Parameter(torch.ones(3)))),
            r"owned\(\) should be a module; .*TaskV.* 'Parameter'",
        ),
        (lambda: cast("Any", Linear)(INPUT), r"The network of network=mine .* Found \"TypeError"),
    ],
)
def test_a_users_network_that_cannot_be_used_is_refused_in_one_line(
    make: Callable[[], nn.Module], complaint: str, ensemble: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mine, "__module__", "mine")
    monkeypatch.setitem(Mine.forward.__globals__, "__name__", "mine")
    with pytest.raises(UserError, match=complaint) as error:
        tried(monkeypatch, lambda code: make(), ensemble)
    assert "\n" not in str(error.value)


class Keeping(nn.Module):
    """A user's network that keeps a tensor as a plain attribute."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.linear, self.kept = Linear(INPUT, OUTPUT), kept

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.linear(x)) + self.kept.sum()


@ENSEMBLES
def test_a_tensor_in_a_plain_attribute_is_refused_if_tasks_have_different_ones(
    ensemble: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tried(monkeypatch, lambda code: Keeping(torch.ones(2)), ensemble)
    with pytest.raises(UserError, match=r"`0.kept` in Sequential, .* owned\(TaskCode\(code\)\) or"):
        tried(monkeypatch, lambda code: nn.Sequential(Keeping(code)), ensemble)


class Flat(nn.Module):
    """A user's linear classifier of images; `change` as in `Mine`."""

    def __init__(self, inputs: int, outputs: int, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.flatten, self.linear, self.change = nn.Flatten(-3), Linear(inputs, outputs), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.linear(self.flatten(x)))


@pytest.mark.parametrize("shared_input", [False, True])
@pytest.mark.parametrize(
    ("inputs", "change", "complaint"),
    [
        (2 * 8 * 8, lambda y: y, None),
        (8 * 8, lambda y: y, "Flat, of network=mine, .*RuntimeError"),
        (2 * 8 * 8, lambda y: y[..., 1:], r"Flat, of network=mine, should be .*3, 5, 4\) .*Found \(3, 5, 3\)\."),
        (2 * 8 * 8, lambda y: y.detach(), r"Flat, .* output depends on its parameters\. Found 'a detached tensor'"),
        (2 * 8 * 8, lambda y: y / 0, r"Flat, .* all finite\. Found 'NaN or infinity'"),
        (2 * 8 * 8, lambda y: (y, y), r"Flat, .* Found 'tuple'\."),
    ],
)
def test_a_users_network_for_images_is_checked_too(
    inputs: int, change: Callable[[Tensor], Any], complaint: str | None, shared_input: bool, monkeypatch: Any
) -> None:
    def build(config: Any, *, image_shape: Any, output_size: int) -> Any:
        return lambda code: owned(Flat(inputs, output_size, change))

    outside.add(monkeypatch, IMAGE_NETWORKS, "mine", build=build)
    with nullcontext() if complaint is None else pytest.raises(UserError, match=complaint):
        build_classifier(named_mine(), image_shape=(2, 8, 8), output_size=4, shared_input=shared_input)


def test_a_network_without_trunk_size_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    outside.add(monkeypatch, IMAGE_NETWORKS, "mine")
    with pytest.raises(UserError, match=r"The module of network=mine should be one with a function trunk_size"):
        build_trunk(named_mine(), image_shape=(2, 8, 8))


@ENSEMBLES
def test_the_check_does_not_change_a_runs_random_numbers(ensemble: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    factory = tried(monkeypatch, lambda code: Mine(lambda m, x, y: y), ensemble)
    found = TaskNetwork(factory, T, ensemble).state_dict()
    torch.manual_seed(0)
    alone = TaskNetwork(lambda code: Mine(lambda m, x, y: y), T, ensemble).state_dict()
    assert all(torch.equal(found[name], alone[name]) for name in alone)
