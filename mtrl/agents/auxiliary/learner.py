"""The main network, a trunk with a primary and an auxiliary head, and its training."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.agents.auxiliary.labels import focal_loss, hierarchy_mask
from mtrl.core.types import Metrics
from mtrl.networks.layers import head


class Sizes(NamedTuple):
    """The numbers of primary and auxiliary classes."""

    num_classes: int
    """C: primary classes."""
    subclasses: int
    """ψ: auxiliary classes per primary class."""

    @property
    def auxiliary(self) -> int:
        """K = ψ · C: auxiliary classes."""
        return self.num_classes * self.subclasses


class TwoHeads(nn.Module):
    """images (B, channels, H, W) -> primary logits (B, C) and auxiliary logits (B, K).

    The heads are those of RL-AUX, App. C.1. It names no activation between their two layers; here it is a ReLU.
    """

    def __init__(self, trunk: nn.Module, features: int, head_width: int, sizes: Sizes) -> None:
        super().__init__()
        self.trunk = trunk
        self.primary = head(features, head_width, sizes.num_classes)
        self.auxiliary = head(features, head_width, sizes.auxiliary)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images)
        return self.primary(features), self.auxiliary(features)


class Objective(NamedTuple):
    """ℓ_i = ℓ_primary + λ w_i ℓ_auxiliary, averaged over a batch (RL-AUX, Eq. 2 and 7)."""

    sizes: Sizes
    auxiliary_weight: float
    """λ"""
    focusing: float
    """γ of the auxiliary focal loss."""
    mask_head: bool
    """Whether the auxiliary head's softmax is masked by the hierarchy, as the labels are."""
    primary_focusing: float = 0.0
    """γ of the primary focal loss; 0 is the cross-entropy."""

    def primary(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of ℓ_primary over a batch, ()."""
        if not self.primary_focusing:
            return F.cross_entropy(logits, labels)
        return focal_loss(logits, labels, self.primary_focusing).mean()

    def __call__(
        self,
        logits: tuple[Tensor, Tensor],
        labels: Tensor,
        auxiliary: Tensor | None,
        weight: Tensor | None,
    ) -> tuple[Tensor, Metrics]:
        """The loss () and its parts, for logits of both heads, (B, C) and (B, K), and primary labels (B,).

        auxiliary: labels (B,) or probabilities (B, K); None without an auxiliary task. weight (B,): 1 if None.
        """
        primary = self.primary(logits[0], labels)
        if auxiliary is None:
            return primary, {"primary_loss": primary.detach()}
        hidden = logits[1]
        if self.mask_head:
            mask = hierarchy_mask(labels, self.sizes.num_classes, self.sizes.subclasses)
            hidden = hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min)
        losses = focal_loss(hidden, auxiliary, self.focusing)
        mean = (losses if weight is None else losses * weight).mean()
        parts = {"primary_loss": primary.detach(), "auxiliary_loss": mean.detach()}
        return primary + self.auxiliary_weight * mean, parts


class MainLearner:
    """Implements `Learner`: stochastic gradient descent on both heads' losses."""

    def __init__(self, network: TwoHeads, objective: Objective, *, rate: float, momentum: float, decay: float) -> None:
        self.network, self.objective, self.rate = network, objective, rate
        self.optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum, weight_decay=decay)

    def set_rate(self, factor: float) -> None:
        """Use `factor` times the learning rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.rate

    @torch.enable_grad()
    def train_batch(self, images: Tensor, labels: Tensor, auxiliary: Tensor | None, weight: Tensor | None) -> Metrics:
        self.network.train()
        logits = self.network(images)
        loss, parts = self.objective(logits, labels, auxiliary, weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return parts | {"accuracy": (logits[0].detach().argmax(-1) == labels).float().mean()}

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> Tensor:
        self.network.eval()
        return self.objective.primary(self.network(images)[0], labels)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """images (B, channels, H, W) -> the likeliest primary classes (B,)."""
        self.network.eval()
        return self.network(images)[0].argmax(-1)

    def snapshot(self) -> Any:
        return copy.deepcopy({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()})

    def restore(self, snapshot: Any) -> None:
        self.network.load_state_dict(snapshot["network"])
        self.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
