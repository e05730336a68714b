"""Kinds of dense prediction tasks, which predict something for each pixel of a picture: losses and measures.

All tensors are (B, C, H, W), and every mean is over valid pixels. A label of −1, a depth of 0, a disparity of −1 or a
normal of zero marks a pixel without ground truth. A batch's tally consists of sums over its pixels. A data set's
measures are computed from the sum of all tallies, so every pixel has the same weight. Losses, invalid values and
compared measures are those of the Auto-λ paper (Sec. 5.1) and its authors' code, but `Normals` has two losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1
"""The label of pixels whose class is unknown."""
ANGLES = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
"""Measure -> degrees: the share of pixels whose normal is off by less than this angle."""
NEAR = 1.25
"""A depth within this factor of the true one counts as correct."""
_SMALLEST = 1e-6
"""Added to the squared lengths of outputs, to avoid a division by zero."""
_BIN = 0.01
"""Degrees: the width of a tally's bins of angles."""


@dataclass(frozen=True)
class PixelTask(ABC):
    """One kind of task. `score`, the first of its measures, is at most 1, and higher is better."""

    channels: int
    """The number of outputs for each pixel; for segmentation, the number of classes."""

    compared: ClassVar[tuple[str, bool]]
    """The measure that Δ_MTL compares, and whether a lower value is better."""

    def prediction(self, output: Tensor) -> Tensor:
        """The prediction from a network's output (B, channels, H, W): of the same shape, or classes (B, 1, H, W)."""
        return output

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss over valid pixels, (); 0 if there are none."""

    @abstractmethod
    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """The K sums over pixels from which `measures` are computed, (K,) float64. Batches' tallies can be added."""

    @abstractmethod
    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        """name -> () for each measure, from a tally; NaN if no pixel is valid."""


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of values over valid pixels, (); 0 if there are none. Both have the same shape."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean norms of vectors (B, C, H, W), as (B, H, W).

    PyTorch's `norm` along this dimension takes a hundred times as long on a CPU.
    """
    return vectors.square().sum(1).sqrt()


def _counts(index: Tensor, valid: Tensor, size: int) -> Tensor:
    """How often each integer in [0, size) occurs at valid pixels, (size,) float64."""
    weight = valid.flatten().double()
    return torch.zeros(size, dtype=torch.float64, device=index.device).scatter_add_(0, index.flatten(), weight)


class Segmentation(PixelTask):
    """Classes. Loss: cross-entropy. Measures: mean intersection over union (mIoU), pixel accuracy.

    Targets are labels (B, 1, H, W). mIoU is the mean over the classes that occur or are predicted.
    """

    compared = ("miou", False)

    def prediction(self, output: Tensor) -> Tensor:
        return output.max(1, keepdim=True).indices  # on a CPU, a third of argmax's time

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        labels = target.squeeze(1).long()
        losses = F.cross_entropy(output, labels, ignore_index=IGNORED, reduction="none")
        return _mean(losses, labels != IGNORED)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """The flattened confusion matrix: true classes are rows, predicted ones are columns."""
        labels = target.long()
        valid = labels != IGNORED
        return _counts(labels.clamp(min=0) * self.channels + self.prediction(output), valid, self.channels**2)

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        matrix = tally.view(self.channels, self.channels)
        right = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - right
        miou = (right / union.clamp(min=1)).sum() / (union > 0).sum()
        return {"score": miou, "miou": miou, "pixel_accuracy": right.sum() / matrix.sum()}


class Depth(PixelTask):
    """Metres along the optical axis. Loss: L1. Measures: absolute and relative error, share within a factor of 1.25."""

    compared = ("absolute_error", True)
    invalid: ClassVar[float] = 0.0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return _mean((output - target).abs(), target != self.invalid)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        valid, error = target != self.invalid, (output - target).abs().double()
        divisible = valid & (target > 0)  # a disparity may be 0
        ratio = output.clamp(min=1e-9) / target.clamp(min=1e-9)
        near = divisible & (torch.maximum(ratio, ratio.reciprocal()) < NEAR)
        relative = torch.where(divisible, error / target.clamp(min=1e-9), 0)
        sums = torch.where(valid, error, 0).sum(), relative.sum(), near.sum(), valid.sum(), divisible.sum()
        return torch.stack([value.double() for value in sums])

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        error, relative, near, valid, divisible = tally.unbind()
        return {"score": near / divisible, "absolute_error": error / valid, "relative_error": relative / divisible}


class Disparity(Depth):
    """Inverse depth, where 0 means infinitely far away. Loss and measures are those of `Depth`."""

    invalid = -1.0


@dataclass(frozen=True)
class Normals(PixelTask):
    """Unit vectors. Loss: cosine or L1. Measures: mean and median angle in degrees, shares within some angles.

    form: "cosine" for the loss 1 − ⟨n, n*⟩, as in the MTAN paper; "l1" for Σ|n − n*| over the three components, as in
    Auto-λ's code.
    """

    compared = ("mean_angle", True)
    form: str = "cosine"

    def prediction(self, output: Tensor) -> Tensor:
        return output / _length(output).clamp(min=1e-12).unsqueeze(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        # Almost the prediction, but with bounded first and second derivatives at an output of zero.
        found = output * (output.square().sum(1, keepdim=True) + _SMALLEST).rsqrt()
        different = 1 - (found * target).sum(1) if self.form == "cosine" else (found - target).abs().sum(1)
        return _mean(different, self._valid(target))

    @staticmethod
    def _valid(target: Tensor) -> Tensor:
        return (target != 0).any(1)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """The number of pixels in each bin of angles, and the sum of the angles."""
        found, valid = self.prediction(output), self._valid(target)
        apart, together = (_length(found + sign * target) for sign in (-1, 1))
        angle = torch.rad2deg(2 * torch.atan2(apart, together))  # exact for small angles, unlike acos
        angle = angle.nan_to_num(180.0)  # NaN cannot be an index; other code reports infinite outputs
        bins = _counts((angle / _BIN).long(), valid, math.ceil(180 / _BIN) + 1)
        return torch.cat([bins, torch.where(valid, angle, 0).double().sum().unsqueeze(0)])

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        bins, total = tally[:-1], tally[-1]
        below, count = bins.cumsum(0), bins.sum()
        shares = {name: below[round(limit / _BIN) - 1] / count for name, limit in ANGLES.items()}
        median = torch.where(count > 0, _BIN * ((below < count / 2).sum() + 0.5), torch.nan)
        return {"score": shares["within_11"], "mean_angle": total / count, "median_angle": median, **shares}


class Noise(PixelTask):
    """A fixed map of uniform noise, from which nothing can be learned. Loss: L1. Measure: absolute error."""

    compared = ("absolute_error", True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().mean()

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        error = (output - target).abs().double().sum()
        return torch.stack([error, torch.full_like(error, target.numel())])

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        error = tally[0] / tally[1]
        return {"score": 1 - error, "absolute_error": error}


KINDS: dict[str, type[PixelTask]] = {
    "segmentation": Segmentation,
    "depth": Depth,
    "disparity": Disparity,
    "normals": Normals,
    "noise": Noise,
}
