"""Labelled images as tensors: what every reader gives, and crop and flip on a whole batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LabelledImages(NamedTuple):
    """M images and what is known of each."""

    images: Tensor
    """(M, C, H, W) uint8"""
    labels: Tensor
    """(M,) int64, or (M, K) for K labels of each image"""
    coarse: Tensor | None = None
    """(M,) int64: the group that the label belongs to, where the data set has groups."""


class Split(NamedTuple):
    """A data set as its authors divided it."""

    train: LabelledImages
    test: LabelledImages


class ImageBatch(NamedTuple):
    """A task-major batch of images."""

    images: Tensor
    """(T, B, C, H, W) float; (1, B, C, H, W) where all tasks see the same images"""
    labels: Tensor
    """(T, B) int64"""


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (M, C, H, W), as (C, 1, 1) in [0, 1]."""
    count = images.numel() / images.shape[1]
    values = torch.arange(256, dtype=torch.float64) / 255
    histograms = torch.stack([torch.bincount(c.flatten().long(), minlength=256) for c in images.cpu().unbind(1)])
    shares = histograms.double() / count
    mean = shares @ values
    variance = shares @ values.square() - mean.square()
    deviation = variance.clamp(min=0).sqrt().clamp(min=1e-3)
    return tuple(t.float().view(-1, 1, 1) for t in (mean, deviation))  # type: ignore[return-value]


def normalised(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 images (..., C, H, W) as floats of mean 0 and deviation 1 in each channel."""
    return (images.float() / 255 - mean) / deviation


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `padding` pixels either way, zeros coming in, and mirror every other one.

    images (..., C, H, W) float -> the same shape. Every image has its own draw; all move at once, by one gather
    along each axis.
    """
    *lead, channels, height, width = images.shape
    rows = images.reshape(-1, channels, height, width)
    count, device = len(rows), images.device
    if padding:
        rows = F.pad(rows, [padding] * 4)
        shift = torch.randint(2 * padding + 1, (2, count, 1), device=device, generator=generator)
        down, right = torch.arange(height, device=device) + shift[0], torch.arange(width, device=device) + shift[1]
    else:
        down, right = (torch.arange(n, device=device).expand(count, n) for n in (height, width))
    if flip:
        mirrored = torch.rand(count, 1, device=device, generator=generator) < 0.5
        right = torch.where(mirrored, right.flip(1), right)
    rows = rows.gather(2, down.view(count, 1, height, 1).expand(-1, channels, -1, rows.shape[3]))
    rows = rows.gather(3, right.view(count, 1, 1, width).expand(-1, channels, height, -1))
    return rows.view(*lead, channels, height, width)
