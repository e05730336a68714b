"""What a task predicts for each pixel of a picture: the loss and the measures of each kind of task.

All tensors have the batch and the channels in front, (B, C, H, W), and every mean is over valid pixels: a label of −1,
a depth of 0, a disparity of −1 and a normal of zero say that nothing is known of a pixel. The measures of a data set
are those of the sum of its batches' tallies, so that each pixel counts alike. Losses, marks and measures are those of
the Auto-λ paper (Sec. 5.1) and its authors' code, but for normals' loss, of which `Normals` has two.
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
"""The label of pixels that no class is known of."""
ANGLES = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
"""The shares of pixels whose normal is off by less than these degrees."""
NEAR = 1.25
"""A depth within this factor of the true one counts as found."""
_SMALLEST = 1e-6
"""Added to the squared lengths of outputs."""
_BIN = 0.01
"""Degrees: how exactly a tally keeps angles."""


@dataclass(frozen=True)
class PixelTask(ABC):
    """One kind of task. `score`, the first of its measures, is a share in [0, 1] of which more is better."""

    channels: int
    """Numbers predicted for each pixel: of a segmentation, its classes."""

    compared: ClassVar[tuple[str, bool]]
    """The measure that Δ_MTL compares, and whether less of it is better."""

    def prediction(self, output: Tensor) -> Tensor:
        """What the network's output (B, channels, H, W) says: the same shape, or (B, 1, H, W) classes."""
        return output

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of the valid pixels, (); 0 where there are none."""

    @abstractmethod
    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Sums over pixels, (K,) float64. Those of several batches are added."""

    @abstractmethod
    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        """name -> () of a tally; NaN where no pixel is valid."""


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Over valid pixels of values (B, 1, H, W)."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def _counts(index: Tensor, valid: Tensor, size: int) -> Tensor:
    """How often each whole number below `size` is among the valid ones, (size,) float64."""
    weight = valid.flatten().double()
    return torch.zeros(size, dtype=torch.float64, device=index.device).scatter_add_(0, index.flatten(), weight)


class Segmentation(PixelTask):
    """Classes: cross-entropy; mean intersection over union, and pixel accuracy. target (B, 1, H, W) has the labels.

    The mean is over the classes that are there or are predicted.
    """

    compared = ("miou", False)

    def prediction(self, output: Tensor) -> Tensor:
        return output.argmax(1, keepdim=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        labels = target.squeeze(1).long()
        losses = F.cross_entropy(output, labels, ignore_index=IGNORED, reduction="none")
        return _mean(losses, labels != IGNORED)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """The confusion matrix: the true class in the row, the predicted one in the column."""
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
    """Metres along the optical axis: L1; absolute and relative error, and the share within a quarter of the truth."""

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
    """Inverse depth, of which 0 means far away: as `Depth`."""

    invalid = -1.0


@dataclass(frozen=True)
class Normals(PixelTask):
    """Unit vectors: cosine or L1 loss; mean and median angle in degrees, and shares within some angles.

    cosine: 1 − ⟨n, n*⟩, as in the MTAN paper; l1: Σ|n − n*| over the three components, as in Auto-λ's code.
    """

    compared = ("mean_angle", True)
    form: str = "cosine"

    def prediction(self, output: Tensor) -> Tensor:
        return F.normalize(output, dim=1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        # Almost the prediction, but with bounded derivatives, also second ones, where the output is zero.
        found = output * (output.square().sum(1, keepdim=True) + _SMALLEST).rsqrt()
        different = 1 - (found * target).sum(1) if self.form == "cosine" else (found - target).abs().sum(1)
        return _mean(different, self._valid(target))

    @staticmethod
    def _valid(target: Tensor) -> Tensor:
        return (target != 0).any(1)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """How many pixels have each angle, in bins, and the sum of the angles."""
        found, valid = self.prediction(output), self._valid(target)
        apart, together = ((found + sign * target).norm(dim=1) for sign in (-1, 1))
        angle = torch.rad2deg(2 * torch.atan2(apart, together))  # exact for small angles, unlike acos
        angle = angle.nan_to_num(180.0)  # an index below; what is not finite is reported elsewhere
        bins = _counts((angle / _BIN).long(), valid, math.ceil(180 / _BIN) + 1)
        return torch.cat([bins, torch.where(valid, angle, 0).double().sum().unsqueeze(0)])

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        bins, total = tally[:-1], tally[-1]
        below, count = bins.cumsum(0), bins.sum()
        shares = {name: below[round(limit / _BIN) - 1] / count for name, limit in ANGLES.items()}
        median = _BIN * ((below < count / 2).sum() + 0.5)
        return {"score": shares["within_11"], "mean_angle": total / count, "median_angle": median, **shares}


class Noise(PixelTask):
    """A fixed map of uniform noise, which nothing can be learned of: L1; absolute error."""

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
