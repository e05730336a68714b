"""The common part of dense-prediction benchmarks, in which each picture has targets for all tasks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from mtrl.core.config import check, option, path_option
from mtrl.core.specs import DenseSpec, Spec
from mtrl.core.suite import ChosenTasks, Suite
from mtrl.data.dense import Augmentation, Chosen, DenseData, Pictures, WithNoise


@dataclass
class DenseConfig(ChosenTasks):
    """Options of every dense-prediction benchmark."""

    spec_type: ClassVar[type[Spec]] = DenseSpec

    root: str = path_option("data")
    """The folder of the data sets."""
    train_size: int | None = option(None, "a positive integer")
    """The number of training pictures, drawn by `split_seed`; all if not given, or if there are fewer."""
    split_seed: int = option(0, "0 or more")
    """Seed of the data: of smaller training sets, of the noise task and, for `scenes`, of the scenes."""
    noise_task: bool = False
    """Add a task from which nothing can be learned: its target is a fixed map of uniform noise for each picture."""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Each training picture is enlarged by one of these factors, drawn at random. Depth is divided by the factor, and
    disparity multiplied."""
    crop: list[int] = field(default_factory=list)
    """Height and width of a random crop of each enlarged training picture; the original size if empty."""
    flip: bool = False
    """Whether training pictures are flipped left to right with probability 1/2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sound = bool(self.scales) and all(1 <= scale < math.inf for scale in self.scales)
        check(sound, "benchmark.scales", "factors of 1 or more", self.scales)
        fine = len(self.crop) in (0, 2) and min(self.crop, default=1) >= 1
        check(fine, "benchmark.crop", "a height and a width, or empty", self.crop)


@dataclass
class FilesConfig(DenseConfig):
    """Options of benchmarks whose pictures are read from published files. Augmentation is that of Auto-λ's code."""

    size: list[int] = field(default_factory=list)
    """Height and width of the files' pictures."""
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.size) == 2 and min(self.size) >= 1, "benchmark.size", "a height and a width", self.size)


class DenseSuite(Suite[Any, DenseSpec]):
    """T tasks on the same pictures. Files are opened, or made, on the first use of `data`."""

    def __init__(
        self,
        config: Any,
        tasks: Mapping[str, tuple[str, int]],
        image_shape: tuple[int, int, int],
        read: Callable[[], tuple[Pictures, Pictures]],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            tasks: name -> (kind, channels) of every task, from which `config.tasks` chooses. A kind is one of
                `data.pixel_tasks.KINDS`.
            image_shape: (C, H, W) of a whole picture.
            read: returns the training and the test pictures, each with the targets of all `tasks`, in their order.
            facts: what `description` should contain in addition.

        Raises:
            UserError: a chosen task does not exist, or `config.crop` is larger than a picture.
        """
        self.config, self._read, self._facts = config, read, facts or {}
        whole = {**tasks, **({"noise": ("noise", 1)} if config.noise_task else {})}
        config.check_tasks(whole)
        fits = all(want <= have for want, have in zip(config.crop, image_shape[1:], strict=False))
        check(fits, "benchmark.crop", f"within {image_shape[1]} x {image_shape[2]} pixels", config.crop)
        chosen = tuple(config.tasks or whole)
        self._chosen = [list(whole).index(task) for task in chosen]
        kinds, channels = zip(*(whole[task] for task in chosen), strict=True)
        uncounted = ("noise",) * config.noise_task
        self.spec = DenseSpec(chosen, image_shape, kinds, channels, uncounted=uncounted)

    @functools.cached_property
    def data(self) -> DenseData:
        """Training and test pictures with the targets of the chosen tasks.

        Raises:
            UserError: a file is missing or damaged.
        """
        config = self.config
        generator = torch.Generator().manual_seed(config.split_seed)
        parts = []
        for number, (pictures, size) in enumerate(zip(self._read(), (config.train_size, None), strict=True)):
            part: Pictures = WithNoise(pictures, 2 * config.split_seed + number) if config.noise_task else pictures
            rows = range(len(part)) if size is None else torch.randperm(len(part), generator=generator)[:size].tolist()
            parts.append(Chosen(part, rows, self._chosen))
        crop = (config.crop[0], config.crop[1]) if config.crop else None
        return DenseData(parts[0], parts[1], Augmentation(tuple(config.scales), crop, config.flip))

    def description(self) -> dict[str, Any]:
        config, spec = self.config, self.spec
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "kinds": list(spec.kinds),
            "channels": list(spec.channels),
            "image_shape": list(spec.image_shape),
            "train_size": config.train_size,
            "split_seed": config.split_seed,
            "augmentation": {"scales": config.scales, "crop": config.crop, "flip": config.flip},
            "test": "all test pictures",
            **self._facts,
        }


def of_files(
    config: FilesConfig, tasks: Mapping[str, tuple[str, int]], part: Callable[[Path, tuple[int, int]], Pictures]
) -> DenseSuite:
    """The suite of a data set in `<root>/<kind>/train` and `val`. part: returns the pictures in such a folder."""
    height, width = config.size

    def read() -> tuple[Pictures, Pictures]:
        train, test = (part(Path(config.root) / config.kind / name, (height, width)) for name in ("train", "val"))
        return train, test

    return DenseSuite(config, tasks, (3, height, width), read)
