"""Grasping a wanted object across domains: features that do not tell the domains apart, by a reversed gradient.

Fang et al., "Multi-Task Domain Adaptation for Deep Learning of Instance Grasping from Simulation", ICRA 2018. The
network takes a picture, the mask of the wanted object and a motor command. Shared features φ of the picture have three
heads: does the command grasp the wanted object (φ and the mask), does it grasp anything (φ), and which domain is it
(φ, through a layer that passes features on and multiplies their gradient by −λ; Ganin & Lempitsky 2015). Labels of the
wanted object are known in the source domain alone, those of anything in both. Of domain t

    L_t = [t is the source] BCE(wanted) + BCE(anything) + BCE(domain)

Ours differs: the command enters as the place that is cut out of the picture, turned by the gripper's turn (Pinto &
Gupta 2016), which takes a calibrated camera and thousands of attempts in place of a million; the mask enters as a few
numbers; each domain has batch norm statistics of its own; one command is a whole grasp, where the paper's moves the
gripper again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.agents import supervised
from mtrl.agents.supervised import SupervisedLearner
from mtrl.core.config import option
from mtrl.core.specs import GraspSpec, Spec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.grasps import NOTHING, WANTED
from mtrl.data.images import ImageBatch
from mtrl.networks import TaskNetwork
from mtrl.networks.layers import head
from mtrl.networks.trial import build_trunk

INSTANCE, ANY, DOMAIN = range(3)
"""Places of the heads' logits."""


@dataclass
class Config(supervised.Config):
    specs: ClassVar[tuple[type[Spec], ...]] = (GraspSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("grasping",)
    divides_batches: ClassVar[bool] = False  # the loss of the domains is a mean over both in one batch
    kind: str = "grasp"
    batch_size: int = 64
    """B: attempts of each domain and update."""
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    """Adam's learning rate at the start of the schedule."""
    weight_decay: float = 1e-5
    reversal: float = option(0.3, "0 or more")
    """λ: what the domain head's gradient of the features is multiplied by, with the other sign; 0 for no such head."""
    target_grasps: bool = True
    """Whether the network learns from attempts in the target domain. If not, it knows nothing of that domain."""
    target_labels: bool = False
    """Whether the wanted object's labels are known in the target domain too: an upper bound."""
    mask_size: int = option(2, "a positive integer")
    """Numbers along an edge of the coarse mask that the wanted object's head sees. With many, the mask tells the
    object's shape and turn by itself, so that little depends on the picture and its domain."""
    score: str = option("instance", ("instance", "any"))
    """Which head chooses commands: for the wanted object (instance), or for any (the indiscriminate baseline)."""


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None


def reversed_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself; what comes back as its gradient is multiplied by −scale."""
    return _Reversed.apply(x, scale)  # type: ignore[no-any-return]


class _Grasper(nn.Module):
    """images (.., B, 4, H, W), whose last channel is the mask -> logits (.., B, 3) of INSTANCE, ANY and DOMAIN."""

    def __init__(self, trunk: nn.Module, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.trunk, self.reversal, self.mask_size = trunk, config.reversal, config.mask_size
        self.instance = head(features + config.mask_size**2, width, 1)
        self.any, self.domain = head(features, width, 1), head(features, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images[..., :3, :, :])
        mask = F.adaptive_avg_pool2d(images[..., 3, :, :], self.mask_size).flatten(-2)
        seen = [torch.cat([features, mask], -1), features, reversed_gradient(features, self.reversal)]
        heads = (self.instance, self.any, self.domain)
        return torch.cat([part(x) for part, x in zip(heads, seen, strict=True)], -1)


class Grasp(SupervisedLearner):
    """The network that predicts what a command grasps. Its tasks are the two domains."""

    def __init__(self, config: Config, *, network: Any, spec: GraspSpec, **context: Any) -> None:
        """network: the configuration of the features; context: as of `OneNetwork`."""
        trunk, features = build_trunk(network, image_shape=(3, spec.crop_size, spec.crop_size))

        def factory(code: Tensor) -> nn.Module:
            return _Grasper(trunk(code), features, features, config)

        super().__init__(config, TaskNetwork(factory, spec.num_tasks), **context)
        known = [[1.0, float(config.target_labels)], [1.0, float(config.target_grasps)]]
        domain = [float(config.target_grasps and config.reversal > 0)] * 2
        self._known = torch.tensor([*known, domain], device=self.device).T  # (T, 3)

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ImageBatch) -> tuple[Tensor, Metrics]:
        """L_t, (T,); the share of attempts, and of domains, that are predicted rightly, (T,)."""
        logits = self.network.call(shared, own, own_buffers, batch.images)
        domain = torch.arange(len(logits), device=logits.device).unsqueeze(1).expand(batch.labels.shape)
        truth = torch.stack([batch.labels == WANTED, batch.labels != NOTHING, domain > 0], -1).to(logits)
        errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        right = ((logits.detach() > 0) == (truth > 0.5)).float().mean(1)
        metrics = {"accuracy": right[:, INSTANCE], "domain_accuracy": right[:, DOMAIN]}
        return (errors * self._known).sum(1), metrics

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """images (T, M, 4, H, W) -> (T, M): how likely each command grasps what it should, by `score`."""
        self.network.eval()
        shared, own, buffers = self.network.tensors
        if not self.config.target_grasps:  # nothing is known of the target, not even its statistics
            buffers = {name: buffer[:1].expand_as(buffer) for name, buffer in buffers.items()}
        logits = self.network.call(shared, own, buffers, images.to(self.device))
        return logits[..., INSTANCE if self.config.score == "instance" else ANY].sigmoid()


def build(config: Config, **context: Any) -> Grasp:
    return Grasp(config, **context)
