"""Labelled images as tensors, their augmentation, and batches of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STATISTICS_ROWS = 1000
"""The number of images whose statistics are computed at once, to save memory."""


class LabelledImages(NamedTuple):
    """M images and their labels."""

    images: Tensor
    """(M, C, H, W) uint8."""
    labels: Tensor
    """(M,) int64, or (M, K) for K labels of each image."""
    coarse: Tensor | None = None
    """(M,) int64: the group of each image, such as CIFAR-100's superclass, if the data set has groups."""


class Split(NamedTuple):
    """A data set in the parts that its authors defined."""

    train: LabelledImages
    test: LabelledImages
    validation: LabelledImages | None = None


class ImageBatch(NamedTuple):
    """A batch of images with the task axis in front."""

    images: Tensor
    """(T, B, C, H, W) float, or (1, B, C, H, W) where all tasks have the same images."""
    labels: Tensor
    """(T, B) int64."""
    human: Tensor | None = None
    """(T, B) int64: auxiliary labels given by people (see `TaskImages`)."""


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each channel of uint8 images (M, C, H, W), scaled to [0, 1].

    Each has shape (C, 1, 1). A deviation is at least 0.001.
    """
    count = images.numel() / images.shape[1]
    values = torch.arange(256, dtype=torch.float64) / 255
    histograms = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(STATISTICS_ROWS):
        histograms += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in part.cpu().unbind(1)])
    shares = histograms.double() / count
    mean = shares @ values
    variance = shares @ values.square() - mean.square()
    deviation = variance.clamp(min=0).sqrt().clamp(min=1e-3)
    return tuple(t.float().view(-1, 1, 1) for t in (mean, deviation))  # type: ignore[return-value]


def normalised(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Normalise uint8 images (..., C, H, W) with each channel's mean and deviation (see `channel_statistics`)."""
    return (images.float() / 255 - mean) / deviation


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `padding` pixels along each axis, filling in zeros, and flip it with probability 1/2.

    images (..., C, H, W) float -> the same shape. Each image has its own random numbers. One gather along each axis
    moves all images.

    flip: whether images are flipped left to right at all.
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


class TaskImages(NamedTuple):
    """The images and labels of T tasks. All images are in one pool, so that none is stored twice."""

    pool: Tensor
    """(M, C, H, W) uint8."""
    rows: Tensor
    """(T, n) int64: each task's rows of the pool, or (1, n) where all tasks have the same images."""
    labels: Tensor
    """(T, n) int64."""
    counts: Tensor
    """(T,) int64: how many of each task's n columns are filled. The others have row 0 and label −1."""
    human: Tensor | None = None
    """(T, n) int64: auxiliary labels given by people, ψ for each class: those of label y are in [ψ y, ψ (y + 1))."""

    def to(self, device: torch.device | str) -> TaskImages:
        return TaskImages(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]


class ImageData(NamedTuple):
    """The training and test data of an image benchmark."""

    train: TaskImages
    test: TaskImages
    mean: Tensor
    """(C, 1, 1): see `channel_statistics`."""
    deviation: Tensor
    """(C, 1, 1)."""
    padding: int
    """The most pixels by which a training image is shifted."""
    flip: bool
    """Whether training images are flipped left to right at random."""
    validation: TaskImages | None = None
    """The images on which the best evaluation of a run is selected, if the data set has such a part."""

    def to(self, device: torch.device | str) -> ImageData:
        moved = (self.train.to(device), self.test.to(device), self.mean.to(device), self.deviation.to(device))
        validation = None if self.validation is None else self.validation.to(device)
        return ImageData(*moved, self.padding, self.flip, validation)


def task_images(
    pool: Tensor, rows: list[Tensor], labels: list[Tensor], human: list[Tensor] | None = None
) -> TaskImages:
    """Pad tasks of different sizes to one `TaskImages`. rows, labels, human: (n_t,) for each task."""
    counts = torch.tensor([len(task) for task in labels])
    width = int(counts.max())

    def padded(columns: list[Tensor], value: int) -> Tensor:
        return torch.stack([F.pad(column, (0, width - len(column)), value=value) for column in columns])

    return TaskImages(pool, padded(rows, 0), padded(labels, -1), counts, None if human is None else padded(human, -1))


class Epochs:
    """Batches of T tasks' training images, epoch by epoch.

    In an epoch, each image of the largest task occurs once, in random order, except for those of an incomplete last
    batch; the images of smaller tasks repeat. If a batch is larger than every task, it repeats images of all. The
    order, crops and flips of a batch depend only on the seed, the batch's number and the kind of device, so a run can
    continue exactly from any batch.
    """

    def __init__(self, data: ImageData, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.per_epoch = max(int(data.train.counts.max()) // batch_size, 1)
        self._epoch, self._order = -1, data.train.rows
        self._generator = torch.Generator(data.train.pool.device)

    def _shuffled(self, epoch: int) -> Tensor:
        """(T, n): each task's columns in the order of this epoch. A task with fewer images repeats its order."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 0, epoch))
        width = int(self.data.train.counts.max())
        orders = []
        for count in self.data.train.counts.tolist():
            order = torch.randperm(count, generator=generator)
            orders.append(order.repeat(-(-width // count))[:width])
        return torch.stack(orders).to(self.data.train.pool.device)

    def columns(self, number: int) -> Tensor:
        """The columns (T, B) of `TaskImages` that form batch `number`; (1, B) where all tasks have the same images."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        width = self._order.shape[1]
        where = torch.arange(place * self.batch_size, (place + 1) * self.batch_size, device=self._order.device) % width
        return self._order[: len(self.data.train.rows), where]

    def batch(self, number: int) -> ImageBatch:
        """The normalised and augmented batch with this number, counted from 0 over all epochs."""
        train, columns = self.data.train, self.columns(number)
        images = normalised(train.pool[train.rows.gather(1, columns)], self.data.mean, self.data.deviation)
        if self.data.padding or self.data.flip:
            self._generator.manual_seed(mixed_seed(self.seed, 1, number))
            images = crop_and_flip(images, self._generator, padding=self.data.padding, flip=self.data.flip)
        columns = columns.expand(len(train.labels), -1)
        human = None if train.human is None else train.human.gather(1, columns)
        return ImageBatch(images, train.labels.gather(1, columns), human)


def mixed_seed(*numbers: int) -> int:
    """Hash several integers to a seed of 63 bits."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number + 0x632BE59BD9B4E019)) * 0xD1342543DE82EF95 % (1 << 64)
        state ^= state >> 29
    return state >> 1
