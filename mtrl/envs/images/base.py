"""The common part of image benchmarks: tasks with labelled images, normalised by statistics of the training set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl.core.config import option, path_option
from mtrl.core.errors import expected
from mtrl.core.specs import ImageSpec, Spec
from mtrl.core.suite import ChosenTasks, Suite
from mtrl.data.images import ImageData, LabelledImages, Split, TaskImages, channel_statistics, task_images

Tasks = tuple[list[Tensor], list[Tensor], "list[Tensor] | None"]
"""Three lists with an entry for each task: the indices (n_t,) of its images, their labels (n_t,), and their human
auxiliary labels (n_t,). The last is None if there are no auxiliary labels."""


@dataclass
class ImageConfig(ChosenTasks):
    """Options of every image benchmark."""

    spec_type: ClassVar[type[Spec]] = ImageSpec

    root: str = path_option("data")
    """The folder of the data sets (see `mtrl data fetch`)."""
    train_size: int | None = option(None, "a positive integer")
    """The number of training images of each task, drawn by `split_seed`; all if not given, or if there are fewer."""
    split_seed: int = option(0, "0 or more")
    """Seed of the random choices that make the data, such as smaller training sets, image pairs and random labels."""
    padding: int = option(0, "0 or more")
    """The largest random shift of a training image, in pixels."""
    flip: bool = False
    """Whether training images are flipped left to right with probability 1/2."""


@dataclass
class TaskImageConfig(ImageConfig):
    """Options of benchmarks with several tasks."""

    noise_task: bool = False
    """Add a task with random labels, in which nothing can be learned. Auto-λ should hardly change its weight."""


@dataclass
class PrimaryImageConfig(ImageConfig):
    """Options of benchmarks with one classification task, which can be trained together with auxiliary labels."""

    defaults: ClassVar[Mapping[str, str]] = {"agent": "auxiliary", "training": "auxiliary"}


class ImageSuite(Suite[Any, ImageSpec]):
    """T classification tasks. Files are read on the first use of `data`."""

    def __init__(
        self,
        config: Any,
        tasks: Sequence[str],
        classes: Sequence[int],
        image_shape: tuple[int, int, int],
        read: Callable[[], Split],
        divide: Callable[[LabelledImages], Tasks],
        *,
        shared_input: bool = False,
        noise: bool = False,
    ) -> None:
        """
        Args:
            tasks: the names of all tasks; `config.tasks` may choose some of them.
            classes: the number of classes of each task.
            image_shape: (C, H, W).
            read: returns the data set.
            divide: given the training, validation or test images, returns each task's part of them as `Tasks`.
            shared_input: whether all tasks have the same images.
            noise: whether to add a task with random labels. It has as many classes as the task with the most.

        Raises:
            UserError: a chosen task does not exist.
        """
        self.config = config
        self._read, self._divide = read, divide
        names, classes = [*tasks, *["noise"] * noise], [*classes, *[max(classes)] * noise]
        config.check_tasks(names)
        self._chosen = [names.index(task) for task in config.tasks or names]
        self._classes, self._noise = classes, noise
        chosen = tuple(names[t] for t in self._chosen)
        sizes = tuple(classes[t] for t in self._chosen)
        self.spec = ImageSpec(chosen, image_shape, sizes, shared_input, uncounted=("noise",) * noise)

    @functools.cached_property
    def data(self) -> ImageData:
        """Training and test images of the tasks, and validation images if the data set has them.

        Raises:
            UserError: a file is missing or damaged, or one of these parts has no images of a task.
        """
        split = self._read()
        seed = self.config.split_seed
        generator = torch.Generator().manual_seed(seed)
        train, test = (
            self._part(split.train, self.config.train_size, generator),
            self._part(split.test, None, generator),
        )
        validation = None if split.validation is None else self._part(split.validation, None, generator)
        mean, deviation = channel_statistics(split.train.images)
        return ImageData(train, test, mean, deviation, self.config.padding, self.config.flip, validation)

    def _part(self, part: LabelledImages, size: int | None, generator: torch.Generator) -> TaskImages:
        rows, labels, human = self._divide(part)
        if self._noise:
            drawn = torch.randperm(len(part.images), generator=generator)[: len(labels[0])]
            rows = [*rows, rows[0] if self.spec.shared_input else drawn]
            labels = [*labels, torch.randint(self._classes[-1], (len(rows[-1]),), generator=generator)]
        if size is not None:
            kept = [torch.randperm(len(task), generator=generator)[:size] for task in labels]
            kept = [kept[0]] * len(kept) if self.spec.shared_input else kept
            rows, labels = ([column[k] for column, k in zip(c, kept, strict=True)] for c in (rows, labels))
            human = None if human is None else [c[k] for c, k in zip(human, kept, strict=True)]
        chosen = self._chosen
        rows, labels = [rows[t] for t in chosen], [labels[t] for t in chosen]
        human = None if human is None else [human[t] for t in chosen]
        for task, own in zip(self.tasks, labels, strict=True):
            if not len(own):
                raise expected(f"The number of images of the task {task} in each part of {self.name}", "1 or more", 0)
        return task_images(part.images, rows[:1] if self.spec.shared_input else rows, labels, human)

    def description(self) -> dict[str, Any]:
        config, common = self.config, {option.name for option in fields(TaskImageConfig)}
        own = {option.name: getattr(config, option.name) for option in fields(config) if option.name not in common}
        facts = {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "classes": list(self.spec.num_classes),
            "image_shape": list(self.spec.image_shape),
            "train_size": config.train_size,
            "split_seed": config.split_seed,
            "augmentation": {"padding": config.padding, "flip": config.flip},
            "test": "the whole test set",
        }
        return facts | ({"options": own} if own else {})


def by_label(part: LabelledImages, groups: Sequence[Sequence[int]]) -> Tasks:
    """One task for each group of classes: the images of these classes, labelled by their class's index in the group."""
    rows, labels = [], []
    largest = max(int(part.labels.max()), *map(max, groups))
    for group in groups:
        place = torch.full((largest + 1,), -1)
        place[torch.tensor(group)] = torch.arange(len(group))
        label = place[part.labels]
        rows.append(torch.nonzero(label >= 0).squeeze(1))
        labels.append(label[rows[-1]])
    return rows, labels, None


def whole(part: LabelledImages, human: Tensor | None = None, labels: Tensor | None = None) -> Tasks:
    """A single task with all images. labels: used in place of those of `part`. human: auxiliary labels."""
    given = part.labels if labels is None else labels
    return [torch.arange(len(given))], [given], None if human is None else [human]
