"""Behaviour cloning of keyframes: from pictures to the gripper pose that the expert went to next (Auto-λ, Sec. 5.3).

A sample's loss is the weighted sum of the distance to the target position, 1 − ⟨q, q*⟩² for unit quaternions (the same
for q and −q), and the gripper's binary cross-entropy. A task's loss is the mean over its samples of loss times
`importance`. The paper does not name its losses. It trains with Adam at 1e-3 on batches of 32.
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
from mtrl.core.specs import KeyframeSpec, Spec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.demo_cache import KeyframeBatch, KeyframeObservation
from mtrl.data.depth import point_cloud
from mtrl.networks import TaskNetwork
from mtrl.networks.keyframes import KEYFRAME_NETWORKS
from mtrl.networks.keyframes.keyframe import Prediction


@dataclass
class Config(OneNetworkConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (KeyframeSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("behaviour_cloning",)
    kind: str = "bc"
    learning_rate: float = option(1e-3, "positive")
    """Adam's learning rate, which stays constant."""
    position_weight: float = option(10.0, "0 or more")
    """Weight of the distance to the target, per metre."""
    rotation_weight: float = option(1.0, "0 or more")
    """Weight of 1 − ⟨q, q*⟩², sin² of half the angle between the rotations."""
    gripper_weight: float = option(0.1, "0 or more")
    """Weight of the gripper's cross-entropy."""


class BC(OneNetwork):
    """The policy of T tasks, trained on batches of keyframes."""

    def __init__(self, config: Config, *, network: Any, spec: KeyframeSpec, **context: Any) -> None:
        """network: its configuration; context: as in `OneNetwork`."""
        factory = KEYFRAME_NETWORKS.build(network, cameras=len(spec.cameras), image_size=spec.image_size)
        adam = functools.partial(torch.optim.Adam, lr=config.learning_rate, fused=True)
        super().__init__(config, TaskNetwork(factory, spec.num_tasks), adam, **context)

    @torch.no_grad()
    def act(self, observation: KeyframeObservation) -> Tensor:
        """Keyframes (T, N, 8) to go to next: xyz, quaternion xyzw, and 1 for an open gripper, 0 for a closed one."""
        prediction = self.predict(*self.network.tensors, observation.to(self.device))
        gripper = (prediction.gripper > 0).to(prediction.position).unsqueeze(-1)
        return torch.cat([prediction.position, prediction.quaternion, gripper], -1)

    @torch.no_grad()
    def attention(self, observation: KeyframeObservation) -> Tensor:
        """Attention weights (T, N, C, h, w), which sum to one over the C cameras and their h × w patches."""
        return self.predict(*self.network.tensors, observation.to(self.device)).attention

    def predict(self, shared: Tensors, own: Tensors, own_buffers: Tensors, seen: KeyframeObservation) -> Prediction:
        """The predicted keyframes for T tasks with B observations each."""
        colours = seen.rgb.movedim(-1, -3).float().div_(255)
        points = point_cloud(seen.depth.float(), seen.intrinsics, seen.extrinsics)
        made: Any = self.network.call(shared, own, own_buffers, colours, points, seen.stage)
        return made

    def losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: KeyframeBatch
    ) -> tuple[Tensor, Metrics]:
        """The losses (T,). Metrics: errors (T,) of position (metres), rotation (degrees) and gripper (share), and each
        sample's loss (T, B) without its `importance`."""
        made = self.predict(shared, own, own_buffers, batch.observation)
        goal, quaternion = batch.target_pose.split([3, 4], -1)
        distance = (made.position - goal).square().sum(-1).add(1e-8).sqrt()
        cosine = (made.quaternion * quaternion).sum(-1)
        gripper = F.binary_cross_entropy_with_logits(made.gripper, batch.target_gripper, reduction="none")
        config = self.config
        sample = config.position_weight * distance + config.rotation_weight * (1 - cosine.square())
        sample = sample + config.gripper_weight * gripper
        with torch.no_grad():
            wrong = ((made.gripper > 0).float() - batch.target_gripper).abs()
            angle = torch.rad2deg(2 * cosine.abs().clamp(max=1).acos())
            errors = {"position_error": distance, "rotation_error": angle, "gripper_error": wrong}
            aux = {name: error.mean(-1) for name, error in errors.items()} | {"sample_loss": sample.detach()}
        return (sample * batch.importance).mean(-1), aux

    def update(self, batch: KeyframeBatch, second_batch: KeyframeBatch | None = None) -> Metrics:
        """One optimiser step on a batch (T, B, ..). Only methods that work on the host wait for the device."""
        second = None if second_batch is None else second_batch.to(self.device)
        return self.optimizer.step(self.losses, batch.to(self.device), second)


def build(config: Config, **context: Any) -> BC:
    return BC(config, **context)
