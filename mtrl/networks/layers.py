"""Layers for one task that accept any leading axes in front of their parameters.

A layer is written as if there were one task: `x` is (B, features), `weight` is (out, in). When a
`TaskNetwork` calls it, parameters and inputs carry leading axes (T,) or (E, T), and the same code computes
all tasks at once. A parameter whose task axis has size 1 or stride 0 is the same for every task; `linear`
multiplies it with all T·B rows in one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def owned(module: M) -> M:
    """Declare that every task has its own copy of all tensors of `module`."""
    module.task_owned = True  # type: ignore[assignment]
    return module


def _merged_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (L.., T, B, in) times weight (L.., out, in) as rows of all tasks, (L.., T·B, out)."""
    rows = x.flatten(-3, -2)
    if weight.ndim == 2:
        return F.linear(rows, weight, bias)
    rows = rows.expand(weight.shape[0], -1, -1)
    return torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT)


class _PerTaskGradientLinear(torch.autograd.Function):
    """`_merged_product` with one weight for all tasks, its gradient kept apart for each task.

    Forward and the input's gradient are the merged products of joint training; only the weight's gradient
    is one product per task, (L.., T, out, in), at the same number of operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _merged_product(x, weight.select(-3, 0), None if bias is None else bias.select(-2, 0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        per_task = grad.unflatten(-2, x.shape[-3:-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _merged_product(per_task, weight.select(-3, 0).mT, None).unflatten(-2, x.shape[-3:-1])
            if x.ndim == 4 and x.shape[0] == 1:
                grad_x = grad_x.sum(0, keepdim=True)
        if ctx.needs_input_grad[1]:
            grad_weight = per_task.mT @ x
        if ctx.needs_input_grad[2]:
            grad_bias = per_task.sum(-2)
        return grad_x, grad_weight, grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias over any leading axes.

    x: (in,), (B, in), (T, B, in) or (E or 1, T, B, in).
    weight: (out, in) for one task or all; (T, out, in); (E, 1 or T, out, in).
    bias: the weight's leading axes, then (out,).
    """
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    if weight.shape[-3] == 1:
        rows = _merged_product(x, weight.squeeze(-3), None if bias is None else bias.squeeze(-2))
        return rows.unflatten(-2, x.shape[-3:-1])
    if weight.stride(-3) == 0:
        rows: Tensor = _PerTaskGradientLinear.apply(x, weight, bias)  # type: ignore[assignment]
        return rows.unflatten(-2, x.shape[-3:-1])
    product = x @ weight.mT
    return product if bias is None else product + bias.unsqueeze(-2)


class Linear(nn.Module):
    """y = W x + b. weight (out, in), bias (out,); both start uniform in ±1/√fan_in."""

    def __init__(self, input_size: int, output_size: int, *, bias: bool = True, fan_in: int | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in or input_size)
        self.weight = nn.Parameter(torch.empty(output_size, input_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(output_size).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class CodedLinear(nn.Module):
    """A linear layer on [x, code], written as W x + b + V code so that the code is never copied B times."""

    def __init__(self, input_size: int, output_size: int, code: Tensor) -> None:
        super().__init__()
        fan_in = input_size + code.numel()
        self.linear = Linear(input_size, output_size, fan_in=fan_in)
        self.code_linear = Linear(code.numel(), output_size, bias=False, fan_in=fan_in)
        self.code = owned(TaskCode(code))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.code_linear(self.code(x))


class TaskCode(nn.Module):
    """A fixed vector that tells one task from the others; its forward gives it as one row, (1, C)."""

    def __init__(self, code: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", code.clone())

    def forward(self, x: Tensor) -> Tensor:
        value = self.get_buffer("value")
        return value if x.ndim == 1 else value.unsqueeze(-2)


class LayerNorm(nn.Module):
    """Normalise the last axis, then scale and shift (Ba et al. 2016). scale and shift (features,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1:]
        if self.scale.ndim == 1:
            return F.layer_norm(x, size, self.scale, self.shift)
        return torch.addcmul(self.shift.unsqueeze(-2), F.layer_norm(x, size), self.scale.unsqueeze(-2))


class Torso(nn.Module):
    """`depth` times linear, [layer norm], [before], ReLU, [after]: the trunk of most architectures here.

    make_linear(index, input_size, output_size) builds each linear layer; `before` and `after` build a module
    that sees the layer's (B, width) output before or after the activation.
    """

    def __init__(
        self,
        input_size: int,
        width: int,
        depth: int,
        *,
        layer_norm: bool = False,
        make_linear: Callable[[int, int, int], nn.Module] | None = None,
        before: Callable[[], nn.Module] | None = None,
        after: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        make_linear = make_linear or (lambda _, inputs, outputs: Linear(inputs, outputs))
        sizes = [input_size, *[width] * depth]
        self.blocks = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            block = [make_linear(index, inputs, outputs)]
            if layer_norm:
                block.append(LayerNorm(outputs))
            if before is not None:
                block.append(before())
            block.append(nn.ReLU())
            if after is not None:
                block.append(after())
            self.blocks.append(nn.Sequential(*block))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x
