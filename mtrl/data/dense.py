"""Data for dense prediction: pictures with several targets for each pixel, augmentation and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.data.images import mixed_seed


class DenseBatch(NamedTuple):
    """Pictures, and each task's targets for them."""

    images: Tensor
    """(1, B, C, H, W) in [-1, 1]. All tasks have the same pictures."""
    targets: tuple[Tensor, ...]
    """One tensor (B, c, H, W) for each task, in the form of its kind (see `data.pixel_tasks`)."""

    def to(self, device: torch.device | str) -> DenseBatch:
        return DenseBatch(self.images.to(device), tuple(target.to(device) for target in self.targets))


class Picture(NamedTuple):
    """One picture and the targets of all tasks."""

    image: Tensor
    """(C, H, W) float in [0, 1]."""
    targets: Sequence[Tensor]
    """(c, H, W) float for each task."""


class Pictures(Protocol):
    """The pictures of one part of a data set, such as the training set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Picture: ...


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures."""

    scales: tuple[float, ...] = (1.0,)
    """The factors, each 1 or more, of which one is drawn to enlarge a picture."""
    crop: tuple[int, int] | None = None
    """The height and width of the random crop, at most those of the enlarged picture. If None, the original size."""
    flip: bool = False
    """Whether pictures are flipped left to right with probability 1/2."""

    def __call__(self, picture: Picture, kinds: Sequence[str], generator: torch.Generator) -> Picture:
        """Enlarge, crop and flip a picture and its targets in the same way. kinds: the kinds of the targets.

        The picture and noise targets are interpolated bilinearly; the other targets take the nearest value. Enlarging
        corresponds to a closer camera, so depth is divided by the factor, and disparity multiplied. Invalid values stay
        invalid. Flipping changes the sign of a normal's first component, x.
        """
        scale = self.scales[int(torch.randint(len(self.scales), (), generator=generator))]
        height, width = picture.image.shape[-2:]
        larger = int(height * scale), int(width * scale)
        rows, columns = self.crop or (height, width)
        top, left = (
            int(torch.randint(have - want + 1, (), generator=generator))
            for have, want in zip(larger, (rows, columns), strict=True)
        )
        mirrored = self.flip and bool(torch.rand((), generator=generator) < 0.5)

        def moved(x: Tensor, smooth: bool) -> Tensor:
            if scale != 1:
                x = F.interpolate(x.unsqueeze(0), larger, mode="bilinear" if smooth else "nearest-exact").squeeze(0)
            x = x[..., top : top + rows, left : left + columns]
            return x.flip(-1) if mirrored else x

        targets = [
            _adjusted(moved(target, kind == "noise"), kind, scale, mirrored)
            for target, kind in zip(picture.targets, kinds, strict=True)
        ]
        return Picture(moved(picture.image, True), targets)


def _adjusted(target: Tensor, kind: str, scale: float, mirrored: bool) -> Tensor:
    """A target whose pixels have been moved, with its values adjusted to the scale and the flip."""
    if kind == "depth":
        return target / scale
    if kind == "disparity":
        return torch.where(target == -1, target, target * scale)
    if kind == "normals" and mirrored:
        return target * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return target


class WithNoise:
    """Adds a target to each picture: a map of uniform noise, which depends only on the seed and the picture's index."""

    def __init__(self, pictures: Pictures, seed: int) -> None:
        self._pictures, self._seed = pictures, seed

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Picture:
        picture = self._pictures[index]
        generator = torch.Generator().manual_seed(mixed_seed(self._seed, index))
        return Picture(picture.image, [*picture.targets, torch.rand(1, *picture.image.shape[-2:], generator=generator)])


class Chosen:
    """Some pictures of a part (`rows`, in this order), with the targets of some tasks (`tasks`, in this order)."""

    def __init__(self, pictures: Pictures, rows: Sequence[int], tasks: Sequence[int]) -> None:
        self._pictures, self._rows, self._tasks = pictures, rows, tasks

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Picture:
        picture = self._pictures[self._rows[index]]
        return Picture(picture.image, [picture.targets[task] for task in self._tasks])


class DenseData(NamedTuple):
    """The training and test data of a benchmark."""

    train: Pictures
    test: Pictures
    augmentation: Augmentation


class DenseEpochs:
    """Batches of training pictures, epoch by epoch.

    The order, scales, crops and flips of a batch depend only on the seed and the batch's number, so a run can continue
    exactly from any batch. An incomplete batch at the end of an epoch is left out. If the whole set is smaller than a
    batch, pictures are repeated.
    """

    def __init__(self, data: DenseData, kinds: Sequence[str], batch_size: int, seed: int) -> None:
        self.data, self.kinds, self.batch_size, self.seed = data, kinds, batch_size, seed
        self.per_epoch = max(len(data.train) // batch_size, 1)
        self._epoch, self._order = -1, list[int]()

    def batch(self, number: int) -> DenseBatch:
        """The augmented batch with this number, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, 0, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.data.train), generator=generator).tolist()
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 1, number))
        begin = place * self.batch_size
        rows = [self._order[k % len(self._order)] for k in range(begin, begin + self.batch_size)]
        augment = self.data.augmentation
        return stacked([augment(self.data.train[row], self.kinds, generator) for row in rows])


def stacked(pictures: Sequence[Picture]) -> DenseBatch:
    """Make a batch of pictures of the same size. Images in [0, 1] are rescaled to [-1, 1]; targets stay as they are."""
    images = torch.stack([picture.image for picture in pictures]).unsqueeze(0)
    columns = zip(*(picture.targets for picture in pictures), strict=True)
    return DenseBatch(2 * images - 1, tuple(torch.stack(column) for column in columns))
