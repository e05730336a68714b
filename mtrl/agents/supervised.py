"""Multi-task image classification: one cross-entropy per task, with every weighting and surgery.

Auto-λ paper, Sec. 5.2: SGD with momentum 0.9, learning rate 0.1, weight decay 5e-4, batches of 32 per task. Losses are
summed, as the paper's learning rate assumes. If some tasks are only auxiliary, `weighting.primary` or `surgery.primary`
names the primary ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents.base import OneNetwork, OneNetworkConfig
from mtrl.core.config import option
from mtrl.core.specs import ImageSpec, Spec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.images import ImageBatch
from mtrl.networks import TaskNetwork
from mtrl.networks.trial import build_classifier


@dataclass
class Config(OneNetworkConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (ImageSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("supervised",)
    divides_batches: ClassVar[bool] = True
    kind: str = "supervised"
    optimizer: str = option("sgd", ("sgd", "adam"))
    """The optimiser: sgd or adam."""
    learning_rate: float = option(0.1, "positive")
    """The optimiser's learning rate at the start of the schedule."""
    momentum: float = option(0.9, "in [0, 1)")
    """SGD's momentum."""
    weight_decay: float = option(5e-4, "0 or more")
    """The optimiser's weight decay. It is added to the gradient, also by Adam."""
    reduction: str = "sum"


class SupervisedLearner(OneNetwork):
    """Gradient descent on the labels of T tasks."""

    def __init__(self, config: Config, network: TaskNetwork, **context: Any) -> None:
        """network: the network of T tasks; context: as in `OneNetwork`."""
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        sgd = functools.partial(torch.optim.SGD, momentum=config.momentum)
        made_by: Any = sgd if config.optimizer == "sgd" else torch.optim.Adam
        super().__init__(config, network, functools.partial(made_by, **options), **context)

    def set_rate(self, factor: float) -> None:
        """Use `factor` times the configured learning rate from now on."""
        for group in self.optimizer.optimizer.param_groups:
            group["lr"] = factor * self.config.learning_rate

    def update(self, batch: Any, second_batch: Any = None) -> Metrics:
        """One optimiser step on this process's share of a batch. Returns metrics.

        Only methods that work on the host wait for the device.

        The batch norms' running statistics are updated once, in the forward pass.
        """
        self.network.train()
        return self.optimizer.step(self.losses, *self.optimizer.processes.share((batch, second_batch)))

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Tensor, Metrics]:
        """The loss of each task, (T,), and metrics of its predictions on the batch. See `TaskLoss`."""
        raise NotImplementedError


class Supervised(SupervisedLearner):
    """The classifier of T tasks."""

    def __init__(self, config: Config, *, network: Any, spec: ImageSpec, **context: Any) -> None:
        """network: its configuration; context: as in `OneNetwork`."""
        most = max(spec.num_classes)
        shared_input = spec.shared_input
        factory = build_classifier(network, image_shape=spec.image_shape, output_size=most, shared_input=shared_input)
        made = TaskNetwork(factory, spec.num_tasks, shared_input=shared_input)
        super().__init__(config, made, **context)
        classes = torch.tensor(spec.num_classes, device=self.device)
        self._absent = torch.arange(most, device=self.device) >= classes.view(-1, 1, 1)  # (T, 1, K)

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ImageBatch) -> tuple[Tensor, Metrics]:
        """Mean cross-entropy of each task, (T,). Metric: its accuracy on the batch, (T,)."""
        logits = self._masked(self.network.call(shared, own, own_buffers, batch.images))
        losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
        accuracy = (logits.detach().argmax(-1) == batch.labels).float().mean(1)
        return losses.view(batch.labels.shape).mean(1), {"accuracy": accuracy}

    def _masked(self, logits: Tensor) -> Tensor:
        """Logits (T, B, K), where those of classes that a task lacks are replaced by the least finite value."""
        return logits.masked_fill(self._absent, torch.finfo(logits.dtype).min)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """images (T, B, C, H, W), or (1, B, C, H, W) if shared -> the likeliest classes (T, B).

        Batch norms use their running statistics.
        """
        self.network.eval()
        return self._masked(self.network(images.to(self.device))).argmax(-1)


def build(config: Config, **context: Any) -> Supervised:
    return Supervised(config, **context)
