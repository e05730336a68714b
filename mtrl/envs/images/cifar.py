"""CIFAR-100 as twenty tasks of five classes, CIFAR-100 with its 20 superclasses, and CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mtrl.core.errors import expected
from mtrl.data import image_files
from mtrl.data.images import LabelledImages, Split
from mtrl.envs.images.base import ImageSuite, PrimaryImageConfig, TaskImageConfig, Tasks, whole

SUPERCLASSES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip
"""The superclasses, in the order of the files' coarse labels."""
PER_SUPERCLASS = 5


@dataclass
class DomainsConfig(TaskImageConfig):
    """CIFAR-100 as 20 tasks: each superclass with its own images and five classes (Auto-λ paper, Sec. 5.2)."""

    kind: str = "cifar100"
    padding: int = 4
    flip: bool = True


@dataclass
class SuperclassConfig(PrimaryImageConfig):
    """CIFAR-100 with its 20 superclasses as the primary task; the 100 classes are the human auxiliary labels."""

    kind: str = "cifar100_20"
    padding: int = 4
    flip: bool = True


@dataclass
class Cifar10Config(PrimaryImageConfig):
    """CIFAR-10, one task of ten classes."""

    kind: str = "cifar10"
    padding: int = 4
    flip: bool = True


CONFIGS = {"cifar100": DomainsConfig, "cifar100_20": SuperclassConfig, "cifar10": Cifar10Config}


def within_superclass(part: LabelledImages) -> torch.Tensor:
    """The index (0 to 4) of each image's class among the classes of its superclass, in the order of the fine labels.

    Raises:
        UserError: there are not five classes of each superclass, so that indices would differ between two parts.
    """
    assert part.coarse is not None
    superclass = torch.full((100,), -1)
    superclass[part.labels] = part.coarse
    place, seen = torch.zeros(100, dtype=torch.int64), [0] * len(SUPERCLASSES)
    for fine, coarse in enumerate(superclass.tolist()):
        if coarse >= 0:
            place[fine] = seen[coarse]
            seen[coarse] += 1
    if any(count != PER_SUPERCLASS for count in seen):
        raise expected("CIFAR-100's superclasses", f"of {PER_SUPERCLASS} classes each", seen)
    return place[part.labels]


def domains(part: LabelledImages) -> Tasks:
    """One task for each superclass: its images, labelled by the index of their class in it."""
    assert part.coarse is not None
    place = within_superclass(part)
    rows = [torch.nonzero(part.coarse == coarse).squeeze(1) for coarse in range(len(SUPERCLASSES))]
    return rows, [place[r] for r in rows], None


def superclasses(part: LabelledImages) -> Tasks:
    """One task with the superclasses as labels. The human labels are the classes: 5 · superclass + index within it."""
    assert part.coarse is not None
    return whole(part, PER_SUPERCLASS * part.coarse + within_superclass(part), part.coarse)


def build(config: Any) -> ImageSuite:
    shape = image_files.CIFAR_SHAPE

    def read() -> Split:
        return image_files.cifar10(config.root) if config.kind == "cifar10" else image_files.cifar100(config.root)[0]

    if config.kind == "cifar100":
        classes = [PER_SUPERCLASS] * len(SUPERCLASSES)
        return ImageSuite(config, SUPERCLASSES, classes, shape, read, domains, noise=config.noise_task)
    if config.kind == "cifar100_20":
        return ImageSuite(config, ["superclass"], [len(SUPERCLASSES)], shape, read, superclasses)
    return ImageSuite(config, ["class"], [10], shape, read, whole)
