"""Epochs of label training alternate with epochs of main training (RL-AUX, App. B). All test images are evaluated.

A step is one training image of the main network. By default, the learning rate halves every 50 epochs. The paper
reports the best test accuracy during training (early stopping). With `training.evaluate_every`, the result has this
accuracy beside the final one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch

from mtrl.core.config import option
from mtrl.core.types import Metrics
from mtrl.data.images import ImageData, mixed_seed
from mtrl.monitoring.progress import Counter
from mtrl.monitoring.random_state import random_state, restore_random_state
from mtrl.training import supervised
from mtrl.training.supervised import SupervisedTrainer


@dataclass
class Config(supervised.Config):
    """Steps are training images of the main network."""

    kind: str = "auxiliary"
    schedule: str = "step"
    """How the main network's learning rate falls: step (see `milestone`), cosine (to zero at the last step), or
    constant."""
    milestone: int = 50
    """With schedule=step: epochs between two reductions of the learning rate, each by the factor `decay`."""
    label_every: int = option(1, "a positive integer")
    """Epochs of main training for each epoch of label training, which comes first."""


class Agent(supervised.Agent, Protocol):
    """What the training loop needs of an agent."""

    def prepare(self, data: ImageData) -> None: ...
    def train_labels(
        self, data: ImageData, number: int, progress: Callable[[int, int], None] | None = None
    ) -> Metrics: ...


class AuxiliaryTrainer(SupervisedTrainer):
    """Trains the source of auxiliary labels before the main network's first epoch, and then every `label_every` epochs.

    One call of `advance` trains the main network on one batch. Where label training is due, it comes first, for a whole
    epoch. The random draws of label training depend only on the seed, the number of rollbacks and the epoch, so a
    resumed run repeats them.
    """

    agent: Any
    """An `Agent`."""

    def start(self) -> Self:
        """Read the images, and prepare the source of labels for them."""
        super().start()
        self.agent.prepare(self.epochs.data)
        self.seconds["labels"] = 0.0
        self._label_metrics: Metrics = {}
        return self

    def rate(self, step: int) -> float:
        if self.config.schedule != "step":
            return super().rate(step)
        epoch = step // (self.epochs.per_epoch * self.agent.config.batch_size)
        return self.config.decay ** (epoch // self.config.milestone)

    def advance(self) -> Metrics:
        epoch, place = divmod(self.updates, self.epochs.per_epoch)
        if place == 0 and epoch % self.config.label_every == 0:
            self._train_labels(epoch)
        return super().advance() | self._label_metrics

    def _train_labels(self, epoch: int) -> None:
        begin = time.perf_counter()
        self.agent.set_rate(self.rate(self.step))
        with seeded(self.stream, epoch):
            self._label_metrics = self.agent.train_labels(self.epochs.data, epoch, Counter("labels"))
        self.seconds["labels"] += time.perf_counter() - begin

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"label_metrics": self._label_metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._label_metrics = dict(state["label_metrics"])


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the global generators of PyTorch and NumPy from `numbers` inside the block, and restore them after it.

    stable-baselines3 draws only from the global generators.
    """
    before, seed = random_state(), mixed_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    try:
        yield
    finally:
        restore_random_state(before)


def build(config: Config, **parts: Any) -> AuxiliaryTrainer:
    return AuxiliaryTrainer(config, **parts)
