"""VGG-16 with hard sharing: a trunk of 13 convolutions, a head per task, and batch norms per task or shared.

Simonyan & Zisserman 2015 for 32×32 images, as Auto-λ (Sec. 5.2) and RL-AUX (App. C.1) use it: batch norm after every
convolution, and one pixel of 512 features at the end. After the last stage, the papers' VGG-16 takes the maximum, and
Auto-λ's published code the mean; `last_pool` chooses. With `batch_norm: task`, each task has its own scale and shift in
each batch norm, as in Auto-λ's published code; its paper does not mention this. Auto-λ's heads are one linear layer
(`head_width: 0`), and RL-AUX's two, which `agent=auxiliary` makes (`agent.head_width`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mtrl.core.config import Options, option
from mtrl.networks.base import Factory
from mtrl.networks.convolution import MeanPool, Pool, conv_block, pooled_size
from mtrl.networks.layers import head, owned

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions) of each stage. A pool follows each stage."""


@dataclass
class Config(Options):
    option_group: ClassVar[str] = "network"
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {"cifar100": {"last_pool": "mean"}}
    """Benchmark -> options of the Auto-λ paper's code."""
    kind: str = "vgg16"
    batch_norm: str = option("task", ("task", "shared"))
    """Whether each task has its own scale and shift (task), or all tasks share them (shared). Statistics are always
    each task's own."""
    last_pool: str = option("max", ("max", "mean"))
    """The pool after the last stage: max (2×2, as after the other stages) or mean (over all pixels)."""
    head_width: int = option(0, "0 or more")
    """Hidden units of each head; 0 for a single linear layer. No effect where the agent makes the heads (auxiliary,
    matching and grasp)."""
    scale: float = option(1.0, "in (0, 4]")
    """Factor by which all channel counts are multiplied; less than 1 suits small images or machines."""


def _channels(config: Config, count: int) -> int:
    return max(1, round(count * config.scale))


def trunk_size(config: Config, image_shape: tuple[int, int, int]) -> int:
    """The number of features in the trunk's output."""
    _, height, width = image_shape
    if config.last_pool == "mean":
        return _channels(config, STAGES[-1][0])
    pixels = pooled_size(height, len(STAGES)) * pooled_size(width, len(STAGES))
    return _channels(config, STAGES[-1][0]) * pixels


def _trunk(config: Config, image_shape: tuple[int, int, int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for number, (count, depth) in enumerate(STAGES, 1):
        outputs = _channels(config, count)
        for _ in range(depth):
            layers += conv_block(inputs, outputs, task_norm=config.batch_norm == "task")
            inputs = outputs
        layers.append(MeanPool() if number == len(STAGES) and config.last_pool == "mean" else Pool())
    return [*layers, nn.Flatten(-3)]


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int | None) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        trunk = _trunk(config, image_shape)
        if output_size is None:
            return nn.Sequential(*trunk)
        return nn.Sequential(*trunk, owned(head(trunk_size(config, image_shape), config.head_width, output_size)))

    return factory
