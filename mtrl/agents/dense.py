"""Dense prediction: each task has a target for every pixel and its own kind of loss.

The defaults are those of the Auto-λ paper, Sec. 5.1: SGD with momentum 0.9, learning rate 0.1, weight decay 1e-4. All
tasks see the same pictures, so one forward pass through the shared part serves all. Per-task gradients need one
backward pass through it for each task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl.agents import supervised
from mtrl.core.config import option
from mtrl.core.specs import DenseSpec, Spec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.dense import DenseBatch
from mtrl.data.pixel_tasks import KINDS, Normals, PixelTask
from mtrl.networks import TaskNetwork
from mtrl.networks.trial import build_dense


@dataclass
class Config(supervised.Config):
    specs: ClassVar[tuple[type[Spec], ...]] = (DenseSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("dense",)
    divides_batches: ClassVar[bool] = False  # each share has other valid pixels, so mean losses cannot be averaged
    kind: str = "dense"
    batch_size: int = 4
    """B: pictures per update."""
    weight_decay: float = 1e-4
    """The optimiser's weight decay."""
    normals_loss: str = option("cosine", ("cosine", "l1"))
    """Loss of surface normals: cosine (one minus the angle's cosine, as in the MTAN paper) or l1 (Auto-λ's code)."""


class Dense(supervised.SupervisedLearner):
    """The learner of T tasks with a target for each pixel."""

    def __init__(self, config: Config, *, network: Any, spec: DenseSpec, **context: Any) -> None:
        """network: its configuration; context: as in `OneNetwork`."""
        made = [KINDS[kind](channels) for kind, channels in zip(spec.kinds, spec.channels, strict=True)]
        self.tasks: list[PixelTask] = [
            replace(task, form=config.normals_loss) if isinstance(task, Normals) else task for task in made
        ]
        factory = build_dense(network, image_shape=spec.image_shape, outputs=max(spec.channels))
        super().__init__(config, TaskNetwork(factory, spec.num_tasks, shared_input=True), **context)

    def update(self, batch: DenseBatch, second_batch: DenseBatch | None = None) -> Metrics:
        second = None if second_batch is None else second_batch.to(self.device)
        return super().update(batch.to(self.device), second)

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: DenseBatch) -> tuple[Tensor, Metrics]:
        """The loss of each task, (T,). Metric: its score on the batch, (T,)."""
        outputs = self._of_tasks(self.network.call(shared, own, own_buffers, batch.images))
        found = list(zip(self.tasks, outputs, batch.targets, strict=True))
        losses = torch.stack([task.loss(output, target) for task, output, target in found])
        with torch.no_grad():
            scores = [task.measures(task.tally(output, target))["score"] for task, output, target in found]
        return losses, {"score": torch.stack(scores)}

    def _of_tasks(self, outputs: Tensor) -> list[Tensor]:
        """The output (T, B, K, H, W) -> each task's own channels of it, (B, channels, H, W)."""
        return [output[:, : task.channels] for task, output in zip(self.tasks, outputs, strict=True)]

    @torch.no_grad()
    def outputs(self, images: Tensor) -> list[Tensor]:
        """images (1, B, C, H, W) -> each task's output (B, channels, H, W).

        Batch norms use their running statistics.
        """
        self.network.eval()
        return self._of_tasks(self.network(images.to(self.device)))


def build(config: Config, **context: Any) -> Dense:
    return Dense(config, **context)
