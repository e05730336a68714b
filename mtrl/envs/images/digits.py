"""Digits from scikit-learn (no download), MNIST and SVHN: as one task, as even and odd ones, or two on one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from mtrl.core.config import option
from mtrl.core.errors import missing
from mtrl.data import image_files
from mtrl.data.images import LabelledImages, Split
from mtrl.envs.images.base import ImageConfig, ImageSuite, PrimaryImageConfig, TaskImageConfig, Tasks, by_label, whole

PARITY = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "svhn": (3, 32, 32)}
_CONV = {"network": "conv"}
_AUXILIARY = {"agent": "auxiliary", "training": "auxiliary", "network": "conv"}


@dataclass
class SklearnConfig(ImageConfig):
    test_share: float = option(0.5, "in (0, 1)")
    """Share of the 1,797 images that form the test set. `split_seed` draws them."""


@dataclass
class _PairsConfig(TaskImageConfig):
    defaults: ClassVar[Mapping[str, str]] = _CONV
    shift: int = option(8, "0 or more")
    """Pixels by which the second digit is shifted to the right and down."""


@dataclass
class DigitsConfig(SklearnConfig, PrimaryImageConfig):
    """scikit-learn's digits: the primary task tells even from odd; the human auxiliary label is the digit."""

    defaults: ClassVar[Mapping[str, str]] = _AUXILIARY
    kind: str = "digits"


@dataclass
class MnistConfig(PrimaryImageConfig):
    """MNIST: the primary task tells even from odd; the human auxiliary label is the digit."""

    defaults: ClassVar[Mapping[str, str]] = _AUXILIARY
    kind: str = "mnist"


@dataclass
class SvhnConfig(PrimaryImageConfig):
    """SVHN's cropped house numbers, one task with ten classes."""

    kind: str = "svhn"


@dataclass
class DigitDomainsConfig(SklearnConfig, TaskImageConfig):
    """scikit-learn's digits as two tasks with five classes: which even digit, and which odd one."""

    defaults: ClassVar[Mapping[str, str]] = _CONV
    kind: str = "digit_domains"


@dataclass
class MultiDigitsConfig(SklearnConfig, _PairsConfig):
    """Two of scikit-learn's digits on one image, one task for each: all tasks see the same images."""

    kind: str = "multi_digits"
    shift: int = 4


@dataclass
class MultiMnistConfig(_PairsConfig):
    """MultiMNIST: two of MNIST's digits on one image of 36×36 (Sabour et al. 2017), one task for each."""

    kind: str = "multi_mnist"


CONFIGS = {
    "digits": DigitsConfig,
    "digit_domains": DigitDomainsConfig,
    "mnist": MnistConfig,
    "svhn": SvhnConfig,
    "multi_digits": MultiDigitsConfig,
    "multi_mnist": MultiMnistConfig,
}


def sklearn_digits(test_share: float, seed: int) -> Split:
    """scikit-learn's 1,797 images of 8×8 pixels with 17 greys, scaled to 0..255 and split at random.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing("The digits", "scikit-learn", "vision") from error
    content: Any = load_digits()
    images = torch.from_numpy(content.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(content.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test = min(max(round(test_share * len(images)), 1), len(images) - 1)
    return Split(*(LabelledImages(images[rows], labels[rows]) for rows in (order[test:], order[:test])))


def parity(part: LabelledImages) -> Tasks:
    """One task with the labels even (0) and odd (1). The human label is the digit's index in 0 2 4 6 8 1 3 5 7 9."""
    odd = part.labels % 2
    return whole(part, 5 * odd + part.labels // 2, odd)


def overlaid(split: Split, shift: int, seed: int) -> Split:
    """Overlay each image with a random one of the same set (training or test), `shift` pixels further right and down.

    Each pixel takes the brighter of the two values. Labels become (M, 2).
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in (split.train, split.test):
        other = torch.randperm(len(part.images), generator=generator)
        first, second = F.pad(part.images, (0, shift, 0, shift)), F.pad(part.images[other], (shift, 0, shift, 0))
        labels = torch.stack([part.labels, part.labels[other]], 1)
        parts.append(LabelledImages(torch.maximum(first, second), labels))
    return Split(*parts)


def both(part: LabelledImages) -> Tasks:
    """Two tasks with all images: the first and the second digit."""
    return [torch.arange(len(part.labels))] * 2, list(part.labels.unbind(1)), None


def build(config: Any) -> ImageSuite:
    kind = config.kind
    source = "mnist" if "mnist" in kind else "svhn" if kind == "svhn" else "digits"
    readers: dict[str, Callable[[], Split]] = {
        "digits": lambda: sklearn_digits(config.test_share, config.split_seed),
        "mnist": lambda: image_files.mnist(config.root),
        "svhn": lambda: image_files.svhn(config.root),
    }
    read, shape = readers[source], SHAPES[source]
    if kind == "svhn":
        return ImageSuite(config, ["class"], [10], shape, read, whole)
    if kind == "digit_domains":
        return ImageSuite(
            config, ["even", "odd"], [5, 5], shape, read, lambda part: by_label(part, PARITY), noise=config.noise_task
        )
    if kind in ("digits", "mnist"):
        return ImageSuite(config, ["parity"], [2], shape, read, parity)
    canvas = (shape[0], shape[1] + config.shift, shape[2] + config.shift)

    def read_pairs() -> Split:
        return overlaid(read(), config.shift, config.split_seed)

    return ImageSuite(
        config, ["first", "second"], [10, 10], canvas, read_pairs, both, shared_input=True, noise=config.noise_task
    )
