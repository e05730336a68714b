"""Activations against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mtrl.networks.layers import ACTIVATIONS

FORMULAS = {
    "relu": lambda x: x.clamp(min=0),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "silu": lambda x: x / (1 + (-x).exp()),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
}


def derivatives(function: Callable[[Tensor], Tensor], start: Tensor) -> list[Tensor]:
    """Values, first and second derivatives; the activation may work in place."""
    x = start.clone().requires_grad_()
    value = function(x * 1)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first.square() + 0 * x).sum(), x)
    return [value, first, second]


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_two_derivatives_are_the_formulas(kind: str, dtype: torch.dtype) -> None:
    start = torch.linspace(-6.1, 6.3, 60, dtype=dtype).view(3, 4, 5)
    allowed = 5e-7 if dtype == torch.float32 else 1e-12
    for found, exact in zip(
        derivatives(ACTIVATIONS[kind](), start), derivatives(FORMULAS[kind], start.double()), strict=True
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=allowed)


def test_tanh_stays_within_one_far_out() -> None:
    for size in (20.0, 1e4, 1e38):
        assert ACTIVATIONS["tanh"]()(torch.tensor([-size, size])).tolist() == [-1.0, 1.0]
