"""Epochs over labelled images with a learning-rate schedule, and accuracy on the whole test set.

A step is one training image of each task. Evaluations use every test image, whatever number of episodes is asked for.
Δ_MTL is the mean relative difference from the accuracies of single-task networks, in per cent (Auto-λ paper, Sec. 5.1).
Δ_MTL and other means over tasks are over the primary tasks if a gradient method has any, and exclude tasks of noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import option, path_option
from mtrl.core.errors import UserError, expected
from mtrl.core.records import read_json, require
from mtrl.core.specs import ImageSpec, Spec
from mtrl.core.types import FloatArray, Metrics
from mtrl.data.images import Epochs, ImageBatch, ImageData, TaskImages, normalised
from mtrl.monitoring.progress import say
from mtrl.training.evaluation import Evaluation, Progress
from mtrl.training.trainer import TrainedAgent, Trainer, TrainingConfig

MACRO = ("precision", "recall", "f1")
"""The names of `macro_scores`, in their order."""
EVALUATION_ROWS = 500
"""Images of each task in one forward pass of an evaluation."""


@dataclass
class Config(TrainingConfig):
    """Steps are training images of each task."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ImageSpec,)

    kind: str = "supervised"
    log_every: int = 3200
    """Steps between two rows of metrics."""
    evaluation_episodes: int = 10_000
    """Has no effect: every test image counts."""
    final_episodes: int = 10_000
    """0 for no evaluation at the end. Other values have no effect: every test image counts."""
    schedule: str = option("cosine", ("cosine", "step", "constant"))
    """How the learning rate falls: cosine (to zero at the last step), step (see `milestone`), or constant."""
    milestone: int = option(100_000, "a positive integer")
    """With schedule=step: steps between two reductions of the learning rate, each by the factor `decay`."""
    decay: float = option(0.5, "in (0, 1]")
    """With schedule=step: the factor of each reduction of the learning rate; 1 for none."""
    single_task: str = path_option("")
    """Results of single-task runs, from which Δ_MTL is computed: a run's folder, a folder of runs, or a `result.json`.
    Without them, there is no Δ_MTL."""

    def evaluates(self, episodes: int) -> str:
        return "all test images"


class Agent(TrainedAgent, Protocol):
    """What the training loop needs of an agent."""

    def update(self, batch: ImageBatch, second_batch: ImageBatch | None = None) -> Metrics: ...
    def set_rate(self, factor: float) -> None: ...
    def predict(self, images: Tensor) -> Tensor: ...


class ImageBenchmark(Protocol):
    """What the training loop needs of a benchmark."""

    spec: ImageSpec

    @property
    def data(self) -> ImageData: ...


@dataclass(frozen=True)
class Accuracy(Evaluation):
    """How well test images are classified."""

    accuracy: FloatArray
    """(T,): the shares of test images that are classified correctly."""
    images: int
    """Number of test images of the task with the most."""
    delta: float | None = None
    """Δ_MTL in per cent; None without single-task results."""
    macro: Mapping[str, FloatArray] = field(default_factory=dict)
    """precision, recall and f1, each (T,): means over a task's classes."""
    validation: FloatArray | None = None
    """(T,): the accuracy on the validation images, by which the best evaluation is chosen; None if there are none."""

    @property
    def per_task(self) -> dict[str, FloatArray]:
        validation = {} if self.validation is None else {"validation_accuracy": self.validation}
        return {"accuracy": self.accuracy, **self.macro, **validation}

    @property
    def chosen_by(self) -> str:
        return self.headline if self.validation is None else "validation_accuracy"

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        named = {f"mean_{name}": values for name, values in self.per_task.items()}
        facts = {"headline": self.headline, "episodes": self.images}
        facts |= {name: self.mean(values) for name, values in named.items()}
        facts["mean_error"] = 1 - self.mean(self.accuracy)
        if self.delta is not None:
            facts["delta_mtl"] = self.delta
        rows = {task: {name: float(values[t]) for name, values in named.items()} for t, task in enumerate(tasks)}
        return facts | {"tasks": rows}


def delta_mtl(values: FloatArray, single: FloatArray, less_is_better: Sequence[bool] = ()) -> float:
    """Δ_MTL = 100/T Σ_t ± (M_t − B_t) / B_t in per cent, for values M (T,) and single-task values B (T,).

    less_is_better: for each task, whether smaller values are better, so that its sign is −; False for all if not given.
    """
    sign = np.where(less_is_better, -1.0, 1.0) if less_is_better else 1.0
    return float(100 * np.mean(sign * (values - single) / single))


def single_task_values(path: Path | str, measures: Mapping[str, str]) -> FloatArray:
    """The values (T,) that single-task runs reached. If a task has several results (seeds), their mean counts.

    Args:
        path: a `result.json`, a run's folder, or a folder of runs. In a folder, results with several tasks are skipped.
        measures: each task's name -> the name of its value, such as accuracy.

    Raises:
        UserError: there is no result for a task, a result is 0, or a file is malformed.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("result.json"))
    found: dict[str, list[float]] = {task: [] for task in measures}
    for file in files:
        rows = read_json(file, {"tasks": {str: {}}})["tasks"]
        if len(rows) > 1 and path.is_dir():
            continue
        for task in found.keys() & rows.keys():
            require(rows[task], {f"mean_{measures[task]}": float}, f"File {file}", task)
            found[task].append(rows[task][f"mean_{measures[task]}"])
    missing = [task for task, values in found.items() if not values]
    if missing:
        what = f"for every task, including {missing[0]}"
        found_files = f"none for it in {len(files)} files (in a folder, results with several tasks are skipped)"
        raise expected(f"Single-task results in {path}", what, found_files)
    means = np.array([np.mean(values) for values in found.values()])
    if zero := [task for task, mean in zip(found, means, strict=True) if mean == 0]:
        raise expected(f"Single-task results in {path}", "other than 0, as Δ_MTL divides by them", f"0 for {zero[0]}")
    return means


class SupervisedTrainer(Trainer):
    """Trains a classifier. The seed and the numbers of rollbacks and updates determine the next batch."""

    unit, headline, reports_best = "images", "accuracy", True

    agent: Any
    """An `Agent`."""
    suite: Any
    """An `ImageBenchmark`."""

    def start(self) -> Self:
        """Read the images.

        Raises:
            UserError: they, or single-task results, are missing or malformed.
        """
        if self.config.single_task:
            self._single_task()  # fail before training, not after it
        self._data = self._read()
        self._draw_batches()
        self.seconds = {"data": 0.0, "update": 0.0}
        self._total, self._seen = torch.zeros(self.suite.spec.num_tasks, device=self.agent.device), 0
        return self

    def _read(self) -> Any:
        return self.suite.data.to(self.agent.device)

    def _epochs(self, seed: int) -> Any:
        """The training batches, in an order that `seed` determines."""
        return Epochs(self._data, self.agent.config.batch_size, seed)

    def _draw_batches(self) -> None:
        self.epochs, self.second = (self._epochs(seed) for seed in (self.stream, self.stream + 1_000_003))

    def reseed(self) -> None:
        super().reseed()
        self._draw_batches()

    def rate(self, step: int) -> float:
        """The schedule's factor of the learning rate in the update after `step` images."""
        if self.config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))
        return self.config.decay ** (step // self.config.milestone) if self.config.schedule == "step" else 1.0

    def advance(self) -> Metrics:
        begin = time.perf_counter()
        sources = [self.epochs, self.second] if self.agent.needs_second_batch else [self.epochs]
        batches = [source.batch(self.updates) for source in sources]
        ready = time.perf_counter()
        self.agent.set_rate(self.rate(self.step))
        metrics = self.agent.update(*batches)
        self._total += metrics[self.headline]
        self._seen += 1
        self.updates += 1
        self.step += self.agent.config.batch_size
        self.seconds["data"] += ready - begin
        self.seconds["update"] += time.perf_counter() - ready
        return metrics

    def report(self) -> dict[str, FloatArray]:
        """{headline: (T,)}: its mean over the training batches since the last report, before their updates."""
        mean = self._total / self._seen if self._seen else torch.full_like(self._total, torch.nan)
        self._total, self._seen = torch.zeros_like(self._total), 0
        return {self.headline: mean.double().cpu().numpy()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"right": self._total.cpu(), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._draw_batches()
        self._seen = state["seen"]
        self._total = state["right"].to(self.agent.device)  # the key that checkpoints have always used

    @property
    def policy(self) -> Callable[[NDArray[np.uint8]], Any]:
        """Images, uint8 (T, B, C, H, W), or (1, B, C, H, W) where tasks share them -> classes (T, B).

        Images are normalised by the training set's statistics, so the files of that set must be present.
        """
        mean, deviation = (s.to(self.agent.device) for s in (self.suite.data.mean, self.suite.data.deviation))

        def classify(images: NDArray[np.uint8]) -> NDArray[np.int64]:
            pixels = torch.from_numpy(images).to(self.agent.device)
            return self.agent.predict(normalised(pixels, mean, deviation)).cpu().numpy()

        return classify

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> NDArray[np.int64]:
        """Uint8 images (C, H, W) or (B, C, H, W) -> their classes, () or (B,).

        Raises:
            UserError: the observation has another shape or type.
        """
        spec, images = self.suite.spec, np.asarray(observation)
        if images.dtype != np.uint8 or images.shape[-3:] != spec.image_shape or images.ndim > 4:
            found = f"{images.dtype} of shape {images.shape}"
            raise expected("Observation", f"uint8 images of shape {spec.image_shape}", found)
        copies = 1 if spec.shared_input else spec.num_tasks
        batch = images.reshape(1, -1, *spec.image_shape).repeat(copies, axis=0)
        classes = np.asarray(self.policy(batch), np.int64)[task]
        return classes if images.ndim == 4 else classes[0]

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Evaluation:
        """Classify every test image. `episodes` and `protocol` have no effect."""
        data = self.suite.data.to(self.agent.device)
        found = classes_on_test(self.agent.predict, data, progress)
        accuracy = _accuracy(found)
        checked = None if data.validation is None else classes_on_test(self.agent.predict, data, part=data.validation)
        macro = np.array([macro_scores(labels, classes) for labels, classes in found]).T
        delta = self._delta(accuracy[self._counted]) if self.config.single_task else None
        validation = None if checked is None else _accuracy(checked)
        return Accuracy(accuracy, int(data.test.counts.max()), delta, dict(zip(MACRO, macro, strict=True)), validation)

    @property
    def _counted(self) -> list[int]:
        return list(range(self.suite.spec.num_tasks)) if self.counted is None else self.counted

    def _compared(self, task: int) -> tuple[str, bool]:
        """Which value of a task Δ_MTL compares, and whether less of it is better."""
        return self.headline, False

    def _single_task(self) -> FloatArray:
        """The single-task values of the tasks that count."""
        measures = {self.suite.spec.tasks[t]: self._compared(t)[0] for t in self._counted}
        return single_task_values(self.config.single_task, measures)

    def _delta(self, values: FloatArray) -> float | None:
        """Δ_MTL over the tasks that count, from the compared value of each. None if the single-task results are gone.

        `start` refuses to train without them, but a run can still be evaluated after they have been moved.
        """
        try:
            single = self._single_task()
        except UserError as error:
            say(f"No Δ_MTL: {error}")
            return None
        return delta_mtl(values, single, [self._compared(t)[1] for t in self._counted])


def _accuracy(found: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> FloatArray:
    return np.array([np.mean(labels == classes) for labels, classes in found])


def classes_on_test(
    predict: Callable[[Tensor], Tensor],
    data: ImageData,
    progress: Callable[[int, int], None] | None = None,
    part: TaskImages | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each task, the labels and the predicted classes, (n_t,) each, of its test images.

    Args:
        predict: normalised images (T, B, C, H, W), or (1, B, C, H, W) where tasks share them -> classes (T, B).
        part: the images to classify in place of the test images.
    """
    test = data.test if part is None else part
    tasks, width = test.labels.shape
    parts = []
    for begin in range(0, width, EVALUATION_ROWS):
        end = min(begin + EVALUATION_ROWS, width)
        parts.append(predict(normalised(test.pool[test.rows[:, begin:end]], data.mean, data.deviation)))
        if progress is not None:
            progress(end * tasks, width * tasks)
    labels, classes = test.labels.cpu().numpy(), torch.cat(parts, 1).cpu().numpy()
    return [(labels[t, :count], classes[t, :count]) for t, count in enumerate(test.counts.tolist())]


def macro_scores(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> tuple[float, float, float]:
    """Precision, recall and F1 of predicted classes (n,), averaged over all classes that occur or are predicted.

    labels: the true classes (n,). A class that is never predicted has precision 0, and one that never occurs recall 0.
    """
    known = np.union1d(labels, classes)[:, None]
    there, predicted, right = ((a == known).sum(1) for a in (labels, classes, np.where(labels == classes, labels, -1)))
    scores = right / np.maximum(predicted, 1), right / np.maximum(there, 1), 2 * right / (there + predicted)
    precision, recall, f1 = (float(score.mean()) for score in scores)
    return precision, recall, f1


def build(config: Config, **parts: Any) -> SupervisedTrainer:
    return SupervisedTrainer(config, **parts)
