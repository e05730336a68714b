"""Layers of image networks, written for one task: x is (B, C, H, W).

When a `TaskNetwork` calls a layer, x is (T, B, C, H, W). Where all tasks see the same images, x is (1, B, C, H, W) up
to the first owned layer, so that a shared trunk runs once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from mtrl.execution.processes import Processes
from mtrl.networks.layers import owned


class _TaskConv(torch.autograd.Function):
    """Convolves the images of all tasks with one weight, whose gradient is kept for each task.

    The forward pass and the input's gradient are those of joint training. The weight's gradient is one product per
    task, (T, out, in, k, k), with the same number of operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: tuple[int, int, int]) -> Tensor:
        """x (T, B, in, H, W); weight (T, out, in, k, k), with stride 0 along T; geometry: stride, padding, dilation."""
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x.flatten(0, 1), weight[0], None, *geometry).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, geometry, grad_x, grad_weight = grads[0], ctx.geometry, None, None
        if ctx.needs_input_grad[0]:
            rows = x.flatten(0, 1).shape
            grad_x = conv2d_input(rows, weight[0], grad.flatten(0, 1), *geometry).view(x.shape)  # type: ignore[arg-type]
        if ctx.needs_input_grad[1]:
            pairs = zip(x, grad, strict=True)
            grad_weight = torch.stack([conv2d_weight(a, weight.shape[1:], g, *geometry) for a, g in pairs])  # type: ignore[arg-type]
        return grad_x, grad_weight, None


def conv2d(x: Tensor, weight: Tensor, padding: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolve x (B, in, H, W) with weight (out, in, k, k), or x (T or 1, B, in, H, W) with that or (T, out, in, k, k).
    The output has a task axis T if one of them has it."""
    geometry = (stride, padding, dilation)
    if x.ndim == 4:
        return F.conv2d(x, weight, None, *geometry)
    if weight.ndim == 5 and weight.shape[0] == 1:
        weight = weight.squeeze(0)
    if weight.ndim == 4:
        return F.conv2d(x.flatten(0, 1), weight, None, *geometry).unflatten(0, x.shape[:2])
    tasks, outputs = weight.shape[:2]
    x = x.expand(tasks, *x.shape[1:])
    if weight.stride(0) == 0:
        return _TaskConv.apply(x, weight, geometry)  # type: ignore[no-any-return]
    grouped = F.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), None, *geometry, groups=tasks)
    return grouped.unflatten(1, (tasks, outputs)).transpose(0, 1)


class Conv2d(nn.Module):
    """A convolution of odd `size` that keeps the size of images, or divides it by `stride`. weight (out, in, k, k).

    By default it has no bias, as a batch norm usually follows.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, dilation: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        bound = math.sqrt(6 / (size * size * inputs))  # He et al. 2015, for ReLU
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.stride, self.dilation, self.padding = stride, dilation, dilation * (size - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        output = conv2d(x, self.weight, self.padding, self.stride, self.dilation)
        return output if self.bias is None else output + _over_images(self.bias)


class Statistics(nn.Module):
    """Running mean and variance of each channel, (C,)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(channels))
        self.variance = nn.Buffer(torch.ones(channels))


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over each task's own batch. scale and shift (C,).

    Each task's images are normalised by their own statistics even if scale and shift are shared. With joint statistics,
    a task's loss and gradient would depend on the other tasks' images. In training, each forward pass updates the
    running statistics in place, unless `tracking` is False. Look-aheads pass copies of them to `TaskNetwork.call`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.statistics = owned(Statistics(channels))
        self.momentum, self.eps, self.tracking = 0.1, 1e-5, True
        self.processes = Processes()
        """The processes that divide each batch. Statistics are taken over all their shares."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self._batch(x) if self.training else self._running(x)
        factor = self.scale * (variance + self.eps).rsqrt()
        offset = self.shift - mean * factor
        return torch.addcmul(_over_images(offset), x, _over_images(factor))

    def _batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # On a CPU, means over pixels and then over images are several times as fast as `torch.var_mean`.
        (mean,) = self.processes.mean([x.mean((-2, -1)).mean(-2)])
        (variance,) = self.processes.mean([(x - _over_images(mean)).square().mean((-2, -1)).mean(-2)])
        if self.tracking:
            count = x.shape[-4] * x.shape[-2] * x.shape[-1] * self.processes.count
            with torch.no_grad():
                self.statistics.mean.lerp_(mean, self.momentum)
                self.statistics.variance.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        return mean, variance

    def _running(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The running statistics. If images and parameters are shared, all rows are equal, and one is returned."""
        same = self.scale.ndim == 1 and x.ndim == 5 and x.shape[0] == 1
        mean, variance = self.statistics.mean, self.statistics.variance
        return (mean[:1], variance[:1]) if same and mean.ndim == 2 else (mean, variance)


def _over_images(values: Tensor) -> Tensor:
    """Reshape (C,) or (T, C) so that it can multiply (.., B, C, H, W)."""
    return values.unsqueeze(-1).unsqueeze(-1).unsqueeze(-4)


def set_tracking(module: nn.Module, tracking: bool) -> None:
    """Choose whether the batch norms of a module update their running statistics in training."""
    for child in module.modules():
        if isinstance(child, BatchNorm):
            child.tracking = tracking


class Pool(nn.Module):
    """Maximum over 2×2 pixels. A side of one pixel is not reduced.

    On the CPU and without a gradient, two vectorised maxima take a tenth of the time of PyTorch's own pooling.
    """

    def forward(self, x: Tensor) -> Tensor:
        down, along = (min(size, 2) for size in x.shape[-2:])
        if x.is_cpu and not x.requires_grad:
            height, width = x.shape[-2] // down * down, x.shape[-1] // along * along
            rows = torch.maximum(x[..., :height:down, :width], x[..., down - 1 : height : down, :width])
            return torch.maximum(rows[..., ::along], rows[..., along - 1 :: along])
        pooled = F.max_pool2d(x.flatten(0, -4), (down, along))
        return pooled.unflatten(0, x.shape[:-3])


class ChannelDropout(nn.Module):
    """In training, drops channels of each image at random, and scales the others (Tompson et al. 2015).

    Where all tasks see the same images (a task axis of size 1), they share one mask.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (.., C, H, W)"""
        if not self.training or not self.rate:
            return x
        return x * F.dropout(x.new_ones(*x.shape[:-2], 1, 1), self.rate)


class MeanPool(nn.Module):
    """Mean over all pixels: (.., C, H, W) to (.., C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1), keepdim=True)


def conv_block(inputs: int, outputs: int, *, task_norm: bool) -> list[nn.Module]:
    """3×3 convolution, batch norm (each task's own, or with a shared scale and shift), ReLU."""
    norm = BatchNorm(outputs)
    return [Conv2d(inputs, outputs), owned(norm) if task_norm else norm, nn.ReLU(inplace=True)]


def pooled_size(size: int, times: int) -> int:
    """Pixels along a side after `times` 2×2 pools."""
    for _ in range(times):
        size = max(size // 2, 1)
    return size
