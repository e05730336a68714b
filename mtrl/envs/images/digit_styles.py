"""Digits in four styles as tasks with the same classes: unchanged, inverted, rotated by 90° and noisy.

The distribution of labels can differ between tasks: each task can have few or no training images of some classes, while
it is tested on all classes. In Zhou et al. 2021 (Fig. 3), each task lacks 10 to 80 % of the images of a block of
classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtrl.core.config import option
from mtrl.data import image_files
from mtrl.data.images import LabelledImages, Split
from mtrl.envs.images.base import ImageSuite, TaskImageConfig, Tasks
from mtrl.envs.images.digits import SHAPES, SklearnConfig, sklearn_digits

STYLES = ("plain", "inverted", "rotated", "noisy")
CLASSES = 10


@dataclass
class StylesConfig(TaskImageConfig):
    """Options of both benchmarks."""

    defaults: ClassVar[Mapping[str, str]] = {"network": "conv"}
    noise: float = option(0.3, "0 or more")
    """Standard deviation of the noise in the noisy style, as a share of the brightness of white."""
    shifted_classes: int = option(0, "in 0..9")
    """The number of classes of which each task has fewer training images: the first task of 0, 1, ..., the second of
    those that follow, and so on; 0 follows 9."""
    shifted_share: float = option(0.9, "in [0, 1]")
    """Share of these classes' training images that is dropped, at random."""


@dataclass
class DigitStylesConfig(SklearnConfig, StylesConfig):
    """scikit-learn's digits in four styles, as tasks with ten classes each."""

    kind: str = "digit_styles"


@dataclass
class MnistStylesConfig(StylesConfig):
    """MNIST in four styles, as tasks with ten classes each."""

    kind: str = "mnist_styles"


CONFIGS = {"digit_styles": DigitStylesConfig, "mnist_styles": MnistStylesConfig}


def styled(images: Tensor, noise: float, generator: torch.Generator) -> list[Tensor]:
    """images (M, C, H, W) uint8 -> the same images in each style."""
    noisy = images + 255 * noise * torch.randn(images.shape, generator=generator)
    return [images, 255 - images, images.rot90(1, (-2, -1)), noisy.round().clamp(0, 255).to(torch.uint8)]


def shifted(labels: Tensor, task: int, config: StylesConfig, generator: torch.Generator) -> Tensor:
    """labels (M,) -> (M,) bool: the training images that a task keeps."""
    place = (labels - task * config.shifted_classes) % CLASSES
    return (place >= config.shifted_classes) | (torch.rand(len(labels), generator=generator) >= config.shifted_share)


def in_styles(split: Split, config: StylesConfig) -> Split:
    """The images of all tasks in one data set. Its coarse labels are the indices of the tasks."""
    generator = torch.Generator().manual_seed(config.split_seed)

    def part(given: LabelledImages, training: bool) -> LabelledImages:
        tasks = []
        for task, images in enumerate(styled(given.images, config.noise, generator)):
            every = torch.ones(len(images), dtype=torch.bool)
            kept = shifted(given.labels, task, config, generator) if training else every
            labels = given.labels[kept]
            tasks.append((images[kept], labels, torch.full_like(labels, task)))
        return LabelledImages(*(torch.cat(column) for column in zip(*tasks, strict=True)))

    return Split(part(split.train, training=True), part(split.test, training=False))


def by_style(part: LabelledImages) -> Tasks:
    """One task for each style: the images whose coarse label is its index."""
    assert part.coarse is not None
    rows = [torch.nonzero(part.coarse == task).squeeze(1) for task in range(len(STYLES))]
    return rows, [part.labels[task] for task in rows], None


def build(config: StylesConfig) -> ImageSuite:
    def read() -> Split:
        if isinstance(config, DigitStylesConfig):
            return in_styles(sklearn_digits(config.test_share, config.split_seed), config)
        return in_styles(image_files.mnist(config.root), config)

    shape = SHAPES["digits" if isinstance(config, DigitStylesConfig) else "mnist"]
    return ImageSuite(config, STYLES, [CLASSES] * len(STYLES), shape, read, by_style, noise=config.noise_task)
