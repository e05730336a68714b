"""MAXL: a label network trained through the main network's step (Liu et al. 2019; RL-AUX, Sec. 2 and 3).

Let L(θ, φ) be the main network's loss with the soft labels of the label network φ, masked by the hierarchy. With
θ⁺ = θ − α ∇_θ L(θ, φ), φ descends L_primary(θ⁺) − c·H(p̄) on the same batch, where H(p̄) is the entropy of the mean
label probabilities. The derivative goes through the gradient in θ⁺, so it is of second order (`torch.func`). The
weight-aware variant has one more output: its sigmoid is w in RL-AUX's Eq. 8, which gives each image's weight. By
default, L_primary is a focal loss with γ = 2, as in the code of MAXL's authors (`agent.primary_focusing`). In a step of
the label network, the batch norms of both networks use the statistics of the batch and leave their running statistics
unchanged. When the label network labels a batch, its batch norms also use the statistics of that batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from mtrl.agents.auxiliary.labels import Labels, batch_entropy, hierarchy_mask, masked_softmax, scaled_weight
from mtrl.agents.auxiliary.learner import MainLearner, Sizes
from mtrl.agents.auxiliary.options import Config
from mtrl.core.types import Metrics, Tensors
from mtrl.data.images import Epochs, ImageBatch, ImageData
from mtrl.networks.convolution import set_tracking
from mtrl.networks.layers import Linear

STREAM = 2_000_003
"""Added to the seed, so that the label network and the main network learn from different batches."""


class LabelNetwork(nn.Module):
    """images (B, C, H, W), primary labels (B,) -> label probabilities (B, K) and weights (B,) or None."""

    def __init__(self, trunk: nn.Module, features: int, sizes: Sizes, weight_aware: bool) -> None:
        super().__init__()
        self.trunk, self.sizes = trunk, sizes
        self.labels = Linear(features, sizes.auxiliary)
        self.weight = Linear(features, 1) if weight_aware else None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.trunk(images)
        mask = hierarchy_mask(labels, self.sizes.num_classes, self.sizes.subclasses)
        weight = None if self.weight is None else scaled_weight(self.weight(features).squeeze(-1).sigmoid())
        return masked_softmax(self.labels(features), mask), weight


class MAXLLabels(Labels):
    """Labels that a network assigns, and the training of this network."""

    def __init__(
        self,
        config: Config,
        learner: MainLearner,
        sizes: Sizes,
        make_trunk: Callable[[], nn.Module],
        trunk_size: int,
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.learner, self._batch_size, self.seed = config.maxl, learner, config.batch_size, seed
        self.network = LabelNetwork(make_trunk(), trunk_size, sizes, config.weight_aware).to(device)
        set_tracking(self.network, False)
        parameters, decay = self.network.parameters(), self.config.weight_decay
        self.optimizer = torch.optim.SGD(parameters, lr=self.config.learning_rate, weight_decay=decay)

    def meta_loss(self, label_parameters: Tensors, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """L_primary(θ⁺(φ)) − c·H(p̄), (), as a function of φ = `label_parameters`. rate: α.

        images (B, C, H, W), labels (B,): a batch and its primary labels.
        """
        main, objective = self.learner.network, self.learner.objective
        probability, weight = functional_call(self.network, dict(label_parameters), (images, labels))

        def inner(parameters: Tensors) -> Tensor:
            logits = functional_call(main, dict(parameters), (images,))
            return objective(logits, labels, probability, weight)[0]

        parameters = {name: p.detach() for name, p in main.named_parameters()}
        gradients = torch.func.grad(inner)(parameters)
        stepped = {name: p - rate * gradients[name] for name, p in parameters.items()}
        primary = objective.primary(functional_call(main, stepped, (images,))[0], labels)
        return primary - self.config.entropy_weight * batch_entropy(probability)

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the label network on images (B, ..) and primary labels (B,). Returns the loss ().

        The main network does not change.
        """
        rate = self.config.inner_rate or self.learner.optimizer.param_groups[0]["lr"]
        self.network.train()
        self.learner.network.train()
        set_tracking(self.learner.network, False)
        parameters = {name: p.detach() for name, p in self.network.named_parameters()}
        gradients, loss = grad_and_value(self.meta_loss)(parameters, images, labels, rate)
        set_tracking(self.learner.network, True)
        for name, parameter in self.network.named_parameters():
            parameter.grad = gradients[name]
        self.optimizer.step()
        return loss.detach()

    def epoch(self, data: ImageData, number: int, progress: Callable[[int, int], None] | None = None) -> Metrics:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.decay ** (number // self.config.milestone)
        epochs = Epochs(data, self._batch_size, self.seed + STREAM)
        losses = []
        for k in range(epochs.per_epoch):
            batch = epochs.batch(number * epochs.per_epoch + k)
            losses.append(self.update(batch.images[0], batch.labels[0]))
            if progress is not None:
                progress(k + 1, epochs.per_epoch)
        return {"label/meta_loss": torch.stack(losses).mean()}

    @torch.no_grad()
    def assign(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None]:
        """Label probabilities (B, K), and weights (B,) in the weight-aware variant, otherwise None."""
        self.network.train()
        return self.network(batch.images[0], batch.labels[0])

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
