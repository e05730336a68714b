"""Grasping a wanted object across domains: a reversed gradient makes the network's features independent of the domain.

Fang et al., "Multi-Task Domain Adaptation for Deep Learning of Instance Grasping from Simulation", ICRA 2018. The
network takes a picture, the mask of the wanted object and a motor command. Three heads share the features φ of the
picture. They predict whether the command grasps the wanted object (from φ and the mask), whether it grasps any object
(from φ), and which domain the picture is from (from φ, behind a layer that multiplies gradients by −λ; Ganin &
Lempitsky 2015). Whether an attempt grasped the wanted object is known only in the source domain. Whether it grasped any
object is known in both. The loss of domain t is

    L_t = [t is the source] BCE(wanted) + BCE(any) + BCE(domain)

Differences from the paper:
- The command decides which part of the picture the network sees, turned as the gripper is (Pinto & Gupta 2016). This
  needs a calibrated camera, but only thousands of attempts instead of a million.
- The mask is reduced to a few numbers.
- Each domain has its own batch-norm statistics.
- One command is a whole grasp. In the paper, the gripper moves several times before it closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.agents import supervised
from mtrl.agents.supervised import SupervisedLearner
from mtrl.core.config import check, option
from mtrl.core.specs import GraspSpec, Spec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.grasps import NOTHING, WANTED
from mtrl.data.images import ImageBatch
from mtrl.networks import TaskNetwork
from mtrl.networks.layers import head
from mtrl.networks.trial import build_trunk

INSTANCE, ANY, DOMAIN = range(3)
"""Indexes of the heads in the network's output."""


@dataclass
class Config(supervised.Config):
    specs: ClassVar[tuple[type[Spec], ...]] = (GraspSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("grasping",)
    divides_batches: ClassVar[bool] = False  # not tested with several processes
    kind: str = "grasp"
    batch_size: int = 64
    """B: attempts per domain and update."""
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    """The optimiser's learning rate at the start of the schedule."""
    weight_decay: float = 1e-5
    reversal: float = option(0.3, "0 or more")
    """λ: the domain head's gradient with respect to the features is multiplied by −λ; 0 turns the domain loss off."""
    target_grasps: bool = True
    """Whether the network learns from attempts in the target domain. If not, predictions there use what the source
    domain has of its own: batch-norm statistics and, with `network.batch_norm=task`, scales and shifts."""
    target_labels: bool = False
    """Whether training also uses the labels of the wanted object in the target domain. This gives an upper bound."""
    mask_size: int = option(2, "a positive integer")
    """Entries along each edge of the coarse mask that the wanted object's head sees. A finer mask would show the
    object's shape and orientation in either domain, so the pictures, which differ, would hardly be needed."""
    score: str = option("instance", ("instance", "any"))
    """The head that rates commands: for the wanted object (instance), or for any object (any, the indiscriminate
    baseline)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usable = self.target_grasps or not self.target_labels
        check(usable, "agent.target_labels", "false with agent.target_grasps=false", self.target_labels)


class _Reversed(torch.autograd.Function):
    """The identity, with its gradient multiplied by −scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None


def reversed_gradient(x: Tensor, scale: float) -> Tensor:
    """x unchanged. In the backward pass, its gradient is multiplied by −scale."""
    return _Reversed.apply(x, scale)  # type: ignore[no-any-return]


class _Grasper(nn.Module):
    """Images (.., B, 4, H, W) with the mask as last channel -> logits (.., B, 3) of INSTANCE, ANY and DOMAIN."""

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
        """network: the configuration of the network whose features the heads share; context: as in `OneNetwork`."""
        trunk, features = build_trunk(network, image_shape=(3, spec.crop_size, spec.crop_size))

        def factory(code: Tensor) -> nn.Module:
            return _Grasper(trunk(code), features, features, config)

        super().__init__(config, TaskNetwork(factory, spec.num_tasks), **context)
        known = [[1.0, float(config.target_labels)], [1.0, float(config.target_grasps)]]
        domain = [float(config.target_grasps and config.reversal > 0)] * 2
        self._known = torch.tensor([*known, domain], device=self.device).T  # (T, 3)

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ImageBatch) -> tuple[Tensor, Metrics]:
        """L_t, (T,). Metrics: the shares of images whose INSTANCE and DOMAIN labels are predicted correctly, (T,)."""
        logits = self.network.call(shared, own, own_buffers, batch.images)
        domain = torch.arange(len(logits), device=logits.device).unsqueeze(1).expand(batch.labels.shape)
        truth = torch.stack([batch.labels == WANTED, batch.labels != NOTHING, domain > 0], -1).to(logits)
        errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        right = ((logits.detach() > 0) == (truth > 0.5)).float().mean(1)
        metrics = {"accuracy": right[:, INSTANCE], "domain_accuracy": right[:, DOMAIN]}
        return (errors * self._known).sum(1), metrics

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """images (T, M, 4, H, W) -> (T, M): each command's probability of success, by the head that `score` names."""
        self.network.eval()
        shared, own, buffers = self.network.tensors
        if not self.config.target_grasps:  # the target's own rows have learned nothing
            own, buffers = ({name: x[:1].expand_as(x) for name, x in part.items()} for part in (own, buffers))
        logits = self.network.call(shared, own, buffers, images.to(self.device))
        return logits[..., INSTANCE if self.config.score == "instance" else ANY].sigmoid()


def build(config: Config, **context: Any) -> Grasp:
    return Grasp(config, **context)
