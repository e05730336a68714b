"""Pictures with several targets for each pixel, their augmentation, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.data.images import mixed_seed


class DenseBatch(NamedTuple):
    """Pictures, and what each task should make of them."""

    images: Tensor
    """(1, B, C, H, W) in [-1, 1]: all tasks see the same pictures"""
    targets: tuple[Tensor, ...]
    """One tensor (B, c, H, W) for each task, in the form that its kind takes (see `data.pixel_tasks`)"""

    def to(self, device: torch.device | str) -> DenseBatch:
        return DenseBatch(self.images.to(device), tuple(target.to(device) for target in self.targets))


class Picture(NamedTuple):
    """One picture and the targets of all tasks."""

    image: Tensor
    """(C, H, W) float in [0, 1]"""
    targets: Sequence[Tensor]
    """(c, H, W) float of each task"""


class Pictures(Protocol):
    """A part of a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Picture: ...


@dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures."""

    scales: tuple[float, ...] = (1.0,)
    """A picture becomes larger by one of these factors, 1 or more."""
    crop: tuple[int, int] | None = None
    """Height and width of what is cut out of it; those that it had if not given."""
    flip: bool = False
    """Whether every other picture is mirrored, left to right."""

    def __call__(self, picture: Picture, kinds: Sequence[str], generator: torch.Generator) -> Picture:
        """Enlarge, cut and mirror a picture and its targets alike.

        Colours and noise are interpolated, the other targets picked. To enlarge a picture is to come closer: depth is
        divided by the factor, and disparity multiplied; what is invalid stays so. A mirrored normal points the other
        way along x, its first component.
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
    """The values of a target after its pixels have moved."""
    if kind == "depth":
        return target / scale
    if kind == "disparity":
        return torch.where(target == -1, target, target * scale)
    if kind == "normals" and mirrored:
        return target * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return target


class WithNoise:
    """Pictures with one more target: a fixed map of uniform noise for each, which follows from a seed."""

    def __init__(self, pictures: Pictures, seed: int) -> None:
        self._pictures, self._seed = pictures, seed

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Picture:
        picture = self._pictures[index]
        generator = torch.Generator().manual_seed(mixed_seed(self._seed, index))
        return Picture(picture.image, [*picture.targets, torch.rand(1, *picture.image.shape[-2:], generator=generator)])


class Chosen:
    """Some pictures of a part, in this order, with the targets of some tasks."""

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
    """Batches of training pictures, epoch by epoch, as a function of the batch's number alone.

    Order, scales, crops and flips of batch k follow from the seed and k, so that a run continues exactly from there.
    """

    def __init__(self, data: DenseData, kinds: Sequence[str], batch_size: int, seed: int) -> None:
        self.data, self.kinds, self.batch_size, self.seed = data, kinds, batch_size, seed
        self.per_epoch = max(len(data.train) // batch_size, 1)
        self._epoch, self._order = -1, list[int]()

    def batch(self, number: int) -> DenseBatch:
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
    """A batch of pictures of one size."""
    images = torch.stack([picture.image for picture in pictures]).unsqueeze(0)
    columns = zip(*(picture.targets for picture in pictures), strict=True)
    return DenseBatch(2 * images - 1, tuple(torch.stack(column) for column in columns))
