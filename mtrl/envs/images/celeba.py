"""CelebA: forty attributes of a face. Each is a task with two classes, and all tasks see the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from mtrl.core.config import option
from mtrl.data.celeba import ATTRIBUTES, celeba
from mtrl.data.images import LabelledImages
from mtrl.envs.images.base import ImageSuite, TaskImageConfig, Tasks
from mtrl.monitoring.progress import say


@dataclass
class Config(TaskImageConfig):
    """CelebA's forty attributes as tasks with two classes. The best evaluation is chosen by validation accuracy."""

    defaults: ClassVar[Mapping[str, str]] = {"network": "resnet18"}
    kind: str = "celeba"
    size: int = option(64, "in 8..178")
    """Pixels along a side of the square pictures."""


def attributes(part: LabelledImages) -> Tasks:
    """One task for each column of the labels (M, 40)."""
    return [torch.arange(len(part.labels))] * len(ATTRIBUTES), list(part.labels.unbind(1)), None


def build(config: Config) -> ImageSuite:
    return ImageSuite(
        config,
        ATTRIBUTES,
        [2] * len(ATTRIBUTES),
        (3, config.size, config.size),
        lambda: celeba(config.root, config.size, say),
        attributes,
        shared_input=True,
        noise=config.noise_task,
    )
