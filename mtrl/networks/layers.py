"""Layers written for one task that accept any leading axes in front of their parameters.

A layer is written as if there were one task: `x` is (B, features), and `weight` is (out, in). When a `TaskNetwork`
calls it, parameters and inputs have leading axes (T,) or (E, T), and the same code computes all tasks at once. A
parameter whose task axis has size 1 or stride 0 is the same for every task; `linear` multiplies it with all T·B rows in
one product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.errors import expected
from mtrl.networks.base import NetworkConfig

M = TypeVar("M", bound=nn.Module)


class _LogisticTanh(torch.autograd.Function):
    """tanh x = 2 σ(2x) − 1, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.mul_(2).sigmoid_().mul_(2).sub_(1)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(grads[0], *ctx.saved_tensors)


class Tanh(nn.Module):
    """tanh x, in place. On a CPU, float32 goes through PyTorch's logistic function, which is six times as fast as its
    tanh; results differ by up to about 1e-7."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return _LogisticTanh.apply(x)  # type: ignore[no-any-return]
        return x.tanh_()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "tanh": Tanh,
    "silu": functools.partial(nn.SiLU, inplace=True),
    "elu": functools.partial(nn.ELU, inplace=True),
}


def owned(module: M) -> M:
    """Declare that each task has its own copy of all tensors of `module`. Returns `module` itself.

    Raises:
        UserError: `module` is not a module but, for example, a bare parameter.
    """
    if not isinstance(module, nn.Module):
        what = "a module; for a vector that each task owns, write owned(TaskVector(value, trained=True))"
        raise expected("The argument of owned()", what, type(module).__name__)
    module.task_owned = True  # type: ignore[assignment]
    return module


def reads_code(layer: M) -> M:
    """Declare that a linear layer is applied to the task's code. A one-hot code selects one column of its weight.

    `TaskNetwork.entries_of_tasks` needs to know. Returns `layer` itself.
    """
    layer.reads_code = True  # type: ignore[assignment]
    return layer


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (L.., R, in) @ weight (L.., in, out), where L is empty or (E,). Rows may have size 1 in place of E."""
    return rows @ weight if weight.ndim == 2 else torch.bmm(rows.expand(weight.shape[0], -1, -1), weight)


def _weight_products(grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ x of each task, (L.., T, out, in). A product is faster if the longer of its two axes comes last."""
    return grad.mT @ x if grad.shape[-1] <= x.shape[-1] else (x.mT @ grad).mT


class _SharedLinear(torch.autograd.Function):
    """Multiplies the rows of all tasks by one weight, whose gradient is summed over tasks or kept for each task.

    In both cases, the forward pass and the input's gradient are one product over all tasks. Per-task gradients of the
    weight, (L.., T, out, in), take one product per task, with the same number of operations in all. The output is not a
    view, so that an activation can work in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, per_task: bool) -> Tensor:
        """x (L.., T, B, in), weight (L.., out, in), bias (L.., out) -> (L.., T, B, out).

        per_task: whether weight and bias have a task axis of stride 0 after L, and get a gradient for each task.
        """
        ctx.save_for_backward(x, weight)
        ctx.per_task = per_task
        if per_task:
            weight, bias = weight.select(-3, 0), None if bias is None else bias.select(-2, 0)
        rows, lead = x.flatten(-3, -2), weight.shape[:-2]
        output = x.new_empty(*lead, *x.shape[-3:-1], weight.shape[-2])
        flat = output.view(*lead, -1, weight.shape[-2])
        if bias is None:
            flat.copy_(_product(rows, weight.mT))
        elif lead:
            torch.baddbmm(bias.unsqueeze(-2), rows.expand(*lead, -1, -1), weight.mT, out=flat)
        else:
            torch.addmm(bias, rows, weight.T, out=flat)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, (needs_x, needs_weight, needs_bias, _) = grads[0], ctx.needs_input_grad
        rows, grad_x, grad_weight, grad_bias = grad.flatten(-3, -2), None, None, None
        if needs_x:
            grad_x = _product(rows, weight.select(-3, 0) if ctx.per_task else weight).unflatten(-2, x.shape[-3:-1])
            grad_x = grad_x.sum_to_size(x.shape)
        if needs_weight:
            grad_weight = _weight_products(grad, x) if ctx.per_task else _product(x.flatten(-3, -2).mT, rows).mT
        if needs_bias:
            grad_bias = grad.sum(-2) if ctx.per_task else rows.sum(-2)
        return grad_x, grad_weight, grad_bias, None


class _OwnLinear(torch.autograd.Function):
    """A product of each task's rows with the task's own weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x (L.., T, B, in), weight (L.., T, out, in) -> (L.., T, B, out)"""
        ctx.save_for_backward(x, weight)
        return x @ weight.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        grad_x = (grads[0] @ weight).sum_to_size(x.shape) if needs_x else None
        return grad_x, _weight_products(grads[0], x).sum_to_size(weight.shape) if needs_weight else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias over any leading axes.

    Args:
        x: (in,), (B, in), (T, B, in) or (E or 1, T, B, in)
        weight: (out, in), for one task or all; or, for x with three or more axes, (T, out, in) or (E, 1 or T, out, in)
        bias: (.., out), with the weight's leading axes
    """
    if weight.ndim == 2 and x.ndim < 3:
        return F.linear(x, weight, bias)
    if weight.ndim == 2:
        return _SharedLinear.apply(x, weight, bias, False)  # type: ignore[no-any-return]
    if weight.shape[-3] == 1:
        merged = weight.squeeze(-3), None if bias is None else bias.squeeze(-2)
        return _SharedLinear.apply(x, *merged, False)  # type: ignore[no-any-return]
    if weight.stride(-3) == 0:
        return _SharedLinear.apply(x, weight, bias, True)  # type: ignore[no-any-return]
    product: Tensor = _OwnLinear.apply(x, weight) if x.ndim > 2 else x @ weight.mT  # type: ignore[assignment]
    return product if bias is None else product.add_(bias.unsqueeze(-2))


class Linear(nn.Module):
    """y = W x + b. weight (out, in), bias (out,). Both are initialised uniformly in ±1/√fan_in.

    fan_in: `input_size` if not given.
    """

    def __init__(self, input_size: int, output_size: int, *, bias: bool = True, fan_in: int | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in or input_size)
        self.weight = nn.Parameter(torch.empty(output_size, input_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(output_size).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def head(inputs: int, width: int, outputs: int) -> nn.Module:
    """Two linear layers with `width` hidden units and a ReLU between them, or one layer if `width` is 0."""
    if not width:
        return Linear(inputs, outputs)
    return nn.Sequential(Linear(inputs, width), nn.ReLU(inplace=True), Linear(width, outputs))


class CodedLinear(nn.Module):
    """A linear layer on [x, code], computed as W x + b + V code, so that the code is not copied for each of B rows."""

    def __init__(self, input_size: int, output_size: int, code: Tensor) -> None:
        super().__init__()
        fan_in = input_size + code.numel()
        self.linear = Linear(input_size, output_size, fan_in=fan_in)
        self.code_linear = reads_code(Linear(code.numel(), output_size, bias=False, fan_in=fan_in))
        self.code = owned(TaskCode(code))

    def forward(self, x: Tensor) -> Tensor:
        output, row = self.linear(x), self.code_linear(self.code(x))
        # Where all tasks see the same x, the output has no task axis yet, and the row has.
        return output.add_(row) if output.dim() >= row.dim() and output.shape[0] >= row.shape[0] else output + row


class TaskVector(nn.Module):
    """A vector (C,) of the task, fixed or trained.

    forward: x (B, features) -> the vector as one row (1, C); x (features,) -> (C,).
    """

    def __init__(self, value: Tensor, *, trained: bool = False) -> None:
        super().__init__()
        self.value = nn.Parameter(value) if trained else nn.Buffer(value.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.value if x.ndim == 1 else self.value.unsqueeze(-2)


def weighted_sum(weights: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Σ_k w_k parts[k]: weights (.., 1, K) of K parts (.., B, features), or weights (K,) of K parts (features,)."""
    first, *others = zip(weights.unsqueeze(-1).unbind(-2), parts, strict=True)
    total = first[0] * first[1]
    for weight, part in others:
        total = torch.addcmul(total, weight, part)
    return total


class TaskCode(TaskVector):
    """The vector that identifies the task. A call may replace it, for example by a new goal."""

    task_code = True


class Generator(nn.Module):
    """A small network (linear, ReLU, linear) from the task's code (C,) to `size` numbers, which are zero at first.

    forward: x (.., B, features) -> (.., size). It reads only the number of axes of x, and runs once per task.
    """

    def __init__(self, code: Tensor, size: int, width: int) -> None:
        super().__init__()
        self.code = owned(TaskCode(code))
        self.hidden = reads_code(Linear(code.numel(), width))
        self.output = Linear(width, size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        generated = self.output(F.relu(self.hidden(self.code(x))))
        return generated if x.ndim == 1 else generated.squeeze(-2)


class _SharedLayerNorm(torch.autograd.Function):
    """Layer normalisation with one scale and shift for all tasks, whose gradients are kept for each task.

    The forward pass is one operation, as in joint training. The backward pass is one operation for each task, which
    gives the gradients of its rows, scale and shift together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x (T, B, features); scale and shift (T, features), with stride 0 along T."""
        output, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], scale[0], shift[0], 1e-5)
        ctx.save_for_backward(x, mean, inverse, scale, shift)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        differentiate, size = torch.ops.aten.native_layer_norm_backward, grads[0].shape[-1:]
        tasks = zip(grads[0], *ctx.saved_tensors, strict=True)
        found = [differentiate(grad, x, size, *saved, [True] * 3) for grad, x, *saved in tasks]
        return tuple(torch.stack(gradients) for gradients in zip(*found, strict=True))


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016). scale and shift (features,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1:]
        if self.scale.ndim == 1:
            return F.layer_norm(x, size, self.scale, self.shift)
        if self.scale.ndim == 2 and self.scale.stride(0) == 0 and len(x) == len(self.scale):
            return _SharedLayerNorm.apply(x, self.scale, self.shift)  # type: ignore[no-any-return]
        return torch.addcmul(self.shift.unsqueeze(-2), F.layer_norm(x, size), self.scale.unsqueeze(-2))


class Torso(nn.Module):
    """The trunk of most architectures: `depth` times linear, [layer norm], [before], activation, [after].

    make_linear(index, input_size, output_size) builds each linear layer. `before` and `after` build a module that
    takes (B, width) before or after the activation. `activation` is a key of `ACTIVATIONS`.
    """

    def __init__(
        self,
        input_size: int,
        width: int,
        depth: int,
        *,
        layer_norm: bool = False,
        activation: str = "relu",
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
            block.append(ACTIVATIONS[activation]())
            if after is not None:
                block.append(after())
            self.blocks.append(nn.Sequential(*block))

    @classmethod
    def of(cls, config: NetworkConfig, input_size: int, **layers: Any) -> Self:
        """The trunk that a network's options describe. layers: `make_linear`, `before` and `after`, as in `Torso`."""
        layers |= {"layer_norm": config.layer_norm, "activation": config.activation}
        return cls(input_size, config.width, config.depth, **layers)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x
