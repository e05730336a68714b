"""A baseline for keyframe tasks: the mean target of each task and stage, whatever the pictures show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents.base import Agent, AgentConfig
from mtrl.core.config import option
from mtrl.core.specs import KeyframeSpec, Spec
from mtrl.core.types import Metrics
from mtrl.data.demo_cache import KeyframeBatch, KeyframeObservation
from mtrl.gradients import Methods


@dataclass
class Config(AgentConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (KeyframeSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("behaviour_cloning",)
    kind: str = "mean_pose"
    batch_size: int = option(32, "a positive integer")
    """B: samples per task and update."""
    stages: int = option(8, "a positive integer")
    """S: number of stages. Later ones count as the last, and one without targets as the one before that has some."""


class MeanPose(Agent):
    """Keeps the sums (T, S, 8) of the targets so far, and the numbers of targets (T, S)."""

    def __init__(
        self, config: Config, *, methods: Methods, spec: KeyframeSpec, device: torch.device | str = "cpu", **_: Any
    ) -> None:
        """methods: only the defaults, as nothing is weighted or projected. Raises `UserError` if a method is chosen."""
        methods.refuse("agent=mean_pose")
        self.config, self.device = config, torch.device(device)
        self.sums = torch.zeros(spec.num_tasks, config.stages, 8, dtype=torch.float64, device=self.device)
        self.counts = torch.zeros(spec.num_tasks, config.stages, dtype=torch.float64, device=self.device)

    def _one_hot(self, stage: Tensor) -> Tensor:
        return F.one_hot(stage.clamp(max=self.config.stages - 1), self.config.stages).double()

    def act(self, observation: KeyframeObservation) -> Tensor:
        """Actions (T, N, 8): mean position, normalised mean quaternion, and the gripper's more frequent state."""
        stages = torch.arange(self.config.stages, device=self.device)
        known = torch.where(self.counts > 0, stages, 0).cummax(-1).values  # (T, S): the last stage so far with targets
        mean = self.sums / self.counts.clamp(min=1).unsqueeze(-1)
        mean = mean.gather(1, known.unsqueeze(-1).expand_as(mean))
        rows = (self._one_hot(observation.stage.to(self.device)) @ mean).float()
        position, quaternion, gripper = rows.split([3, 4, 1], -1)
        return torch.cat([position, F.normalize(quaternion, dim=-1), (gripper > 0.5).float()], -1)

    def attention(self, observation: KeyframeObservation) -> None:
        """None, since this baseline has no attention."""

    def update(self, batch: KeyframeBatch, second_batch: KeyframeBatch | None = None) -> Metrics:
        """Add a batch to the means. Returns loss (T,): its positions' mean distance from the new means, in metres."""
        batch = batch.to(self.device)
        one_hot = self._one_hot(batch.observation.stage)
        target = torch.cat([batch.target_pose, batch.target_gripper.unsqueeze(-1)], -1).double()
        self.sums += one_hot.mT @ target
        self.counts += one_hot.sum(-2)
        return {"loss": (self.act(batch.observation)[..., :3] - batch.target_pose[..., :3]).norm(dim=-1).mean(-1)}

    def reseed(self, seed: int) -> None:
        """Does nothing, since this baseline uses no random numbers."""

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])


def build(config: Config, **context: Any) -> MeanPose:
    return MeanPose(config, **context)
