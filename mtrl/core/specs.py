"""Specifications of the data that benchmarks, training loops and agents exchange: one class for each kind of data.

A benchmark's configuration names its class in `spec_type`, and its suite has an instance (`suite.spec`). Training loops
and agents list the classes that they accept in `Config.specs`. The match is by the exact class: an agent that lists
only `ControlSpec` does not accept a `GoalSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from mtrl.core.errors import expected

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """The specification of any benchmark."""

    defaults: ClassVar[Mapping[str, str]] = {}
    """Option -> default for such data, if no recipe is chosen. The benchmark's own defaults and the command line take
    precedence."""

    tasks: tuple[str, ...]
    """The names of the T tasks, in the order of the task axis."""
    uncounted: tuple[str, ...] = field(default=(), kw_only=True)
    """Tasks that are left out of the means in a run's results, as their labels or targets are noise."""

    def __post_init__(self) -> None:
        if not self.tasks or len({*self.tasks}) < len(self.tasks):
            raise expected("A benchmark", "one with at least one task, each with a name of its own", list(self.tasks))

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.tasks)


@dataclass(frozen=True)
class ControlSpec(Spec):
    """Environments whose observations and actions are vectors. A batch is `core.types.Transitions` of all T tasks."""

    observation_size: int
    """O."""
    action_size: int
    """A; each component of an action is in [-1, 1]."""
    horizon: int
    """Steps after which an episode is truncated."""
    tells_success: bool = field(default=True, kw_only=True)
    """Whether all tasks report success; if not, results are returns only."""


@dataclass(frozen=True)
class GoalSpec(ControlSpec):
    """Environments whose tasks are goals. A batch is `core.types.Transitions` of the goals in its `subset`."""

    defaults: ClassVar[Mapping[str, str]] = {"training": "goal_conditioned", "network": "mint"}

    goals: Tensor = field(compare=False)
    """(T, G) float32: the G coordinates of each goal, in [-1, 1]."""
    goals_per_batch: int
    """The number of goals in a rollout, and in a batch."""


@dataclass(frozen=True)
class KeyframeSpec(Spec):
    """Manipulation from keyframe to keyframe. A batch is `data.demo_cache.KeyframeBatch`: pictures and next poses."""

    defaults: ClassVar[Mapping[str, str]] = {
        "agent": "bc",
        "training": "behaviour_cloning",
        "network": "keyframe",
        "steps": "8000",
    }

    cameras: tuple[str, ...]
    """The cameras that the policy sees, in the order of a batch."""
    image_size: int
    """Pixels along a side of each square picture."""


@dataclass(frozen=True)
class ImageSpec(Spec):
    """Classification of images. A batch is `data.images.ImageBatch`: images and labels."""

    defaults: ClassVar[Mapping[str, str]] = {"agent": "supervised", "training": "supervised", "network": "vgg16"}

    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    num_classes: tuple[int, ...]
    """The number of classes of each task, (T,)."""
    shared_input: bool = False
    """Whether all tasks label the same images; the images of a batch then have a task axis of size 1."""


@dataclass(frozen=True)
class DenseSpec(Spec):
    """Dense prediction: several targets for each pixel of one picture. A batch is a `data.dense.DenseBatch`."""

    defaults: ClassVar[Mapping[str, str]] = {"agent": "dense", "training": "dense", "network": "split"}

    image_shape: tuple[int, int, int]
    """(C, H, W) of a picture before it is cropped."""
    kinds: tuple[str, ...]
    """The kind of each task, (T,): one of `data.pixel_tasks.KINDS`."""
    channels: tuple[int, ...]
    """The number of values that each task predicts for a pixel, (T,): for segmentation, the number of classes."""


@dataclass(frozen=True)
class GraspSpec(Spec):
    """Attempts to grasp in two domains, source and target, which are the tasks. A batch is a `data.images.ImageBatch`.

    Its images show the surroundings of the commanded gripper pose, with the wanted object's mask as the last channel.
    Its labels are those of `data.grasps`.
    """

    defaults: ClassVar[Mapping[str, str]] = {"agent": "grasp", "training": "grasping", "network": "conv"}

    crop_size: int
    """Pixels along a side of such an image."""
