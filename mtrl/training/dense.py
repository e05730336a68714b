"""Epochs over pictures with targets for each pixel. Each task is evaluated on all test pictures.

A step is one training picture. A task's score is a number of at most 1 that its kind defines (`data.pixel_tasks`);
higher is better for all kinds. The result also has the kind's own measures. Δ_MTL compares the same measures as the
Auto-λ paper: mIoU, the absolute error of depth or disparity, and the mean angular error of normals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.errors import expected
from mtrl.core.specs import DenseSpec, Spec
from mtrl.core.types import FloatArray, Metrics
from mtrl.data.dense import DenseBatch, DenseData, DenseEpochs, Picture, stacked
from mtrl.data.pixel_tasks import PixelTask
from mtrl.monitoring.pixels import side_by_side
from mtrl.training import supervised
from mtrl.training.evaluation import Evaluation, Progress
from mtrl.training.supervised import SupervisedTrainer
from mtrl.training.trainer import TrainedAgent


@dataclass
class Config(supervised.Config):
    """Steps are training pictures."""

    specs: ClassVar[tuple[type[Spec], ...]] = (DenseSpec,)

    kind: str = "dense"
    log_every: int = 400
    """Steps between two rows of metrics."""

    def evaluates(self, episodes: int) -> str:
        return "all test pictures"


class Agent(TrainedAgent, Protocol):
    """What the training loop needs of an agent."""

    tasks: Sequence[PixelTask]

    def update(self, batch: DenseBatch, second_batch: DenseBatch | None = None) -> Metrics: ...
    def set_rate(self, factor: float) -> None: ...
    def outputs(self, images: Tensor) -> list[Tensor]: ...


class DenseBenchmark(Protocol):
    """What the training loop needs of a benchmark."""

    spec: DenseSpec

    @property
    def data(self) -> DenseData: ...


@dataclass(frozen=True)
class Measures(Evaluation):
    """How well each task is predicted on the test pictures."""

    measures: Sequence[Mapping[str, float]]
    """Each task's measures by name. The first is its `score`."""
    pictures: int
    """Number of test pictures."""
    delta: float | None = None
    """Δ_MTL in per cent; None without single-task results."""

    @property
    def per_task(self) -> dict[str, FloatArray]:
        """name -> (T,): every measure; NaN for tasks that do not have it."""
        names = dict.fromkeys(name for found in self.measures for name in found)
        return {name: np.array([found.get(name, np.nan) for found in self.measures]) for name in names}

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        facts: dict[str, Any] = {"headline": self.headline, "episodes": self.pictures}
        facts[f"mean_{self.headline}"] = self.mean(self.per_task[self.headline])
        if self.delta is not None:
            facts["delta_mtl"] = self.delta
        rows = zip(tasks, self.measures, strict=True)
        return facts | {"tasks": {task: {f"mean_{name}": v for name, v in found.items()} for task, found in rows}}


class DenseTrainer(SupervisedTrainer):
    """Trains an agent for dense prediction. Seed, rollbacks and updates so far determine the next batch."""

    headline = "score"

    agent: Any
    """An `Agent`."""
    suite: Any
    """A `DenseBenchmark`."""

    def _read(self) -> DenseData:
        return self.suite.data

    def _epochs(self, seed: int) -> DenseEpochs:
        return DenseEpochs(self._data, self.suite.spec.kinds, self.agent.config.batch_size, seed)

    def _compared(self, task: int) -> tuple[str, bool]:
        return self.agent.tasks[task].compared

    def pictures(self, example: int = 0) -> dict[str, Any]:
        """For each task, a test picture, its target and the prediction, side by side: (H, 3 W, 3)."""
        image, targets = self.suite.data.test[example]
        outputs = zip(self.agent.tasks, self.agent.outputs(stacked([Picture(image, targets)]).images), strict=True)
        found = [task.prediction(output)[0].cpu().numpy() for task, output in outputs]
        spec = self.suite.spec
        return {
            f"predictions/{task}": side_by_side(kind, image.numpy(), target.numpy(), values)
            for task, kind, target, values in zip(spec.tasks, spec.kinds, targets, found, strict=True)
        }

    @property
    def policy(self) -> Callable[[NDArray[np.uint8]], list[NDArray[Any]]]:
        """Pictures, uint8 (B, C, H, W) -> each task's prediction (B, c, H, W): classes, metres, unit vectors, ..."""

        def predict(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
            pixels = torch.from_numpy(images).float().div(127.5).sub(1).unsqueeze(0)
            found = zip(self.agent.tasks, self.agent.outputs(pixels), strict=True)
            return [task.prediction(output).cpu().numpy() for task, output in found]

        return predict

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> NDArray[Any]:
        """Uint8 pictures (C, H, W) or (B, C, H, W) -> the task's prediction, (c, H, W) or (B, c, H, W).

        Raises:
            UserError: the observation has another shape or type.
        """
        images, channels = np.asarray(observation), self.suite.spec.image_shape[0]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-3] != channels:
            found = f"{images.dtype} of shape {images.shape}"
            raise expected("Observation", f"uint8 pictures of shape ({channels}, height, width)", found)
        found = self.policy(images if images.ndim == 4 else images[None])[task or 0]
        return found if images.ndim == 4 else found[0]

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Measures:
        """Measure all test pictures. `episodes` and `protocol` have no effect."""
        test, tasks, size = self.suite.data.test, self.agent.tasks, self.agent.config.batch_size
        tallies: list[Any] = [0] * len(tasks)
        for begin in range(0, len(test), size):
            end = min(begin + size, len(test))
            batch = stacked([test[row] for row in range(begin, end)]).to(self.agent.device)
            found = zip(tasks, self.agent.outputs(batch.images), batch.targets, strict=True)
            tallies = [so_far + task.tally(out, true) for so_far, (task, out, true) in zip(tallies, found, strict=True)]
            if progress is not None:
                progress(end * len(tasks), len(test) * len(tasks))
        measures = [
            {name: float(value) for name, value in task.measures(tally).items()}
            for task, tally in zip(tasks, tallies, strict=True)
        ]
        delta = None
        if self.config.single_task:
            delta = self._delta(np.array([measures[t][self._compared(t)[0]] for t in self._counted]))
        return Measures(measures, len(test), delta)


def build(config: Config, **parts: Any) -> DenseTrainer:
    return DenseTrainer(config, **parts)
