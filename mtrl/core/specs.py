"""What benchmarks, training loops and agents agree on: a specification of the data, one class for each kind.

A benchmark's configuration names its class in `spec_type`, and its suite fills one in (`suite.spec`). Training loops
and agents list the classes that they work with in `Config.specs`. The match is by the exact class: an agent that lists
only `ControlSpec` does not take a `GoalSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """What every benchmark states: the names of its T tasks, in the order of the task axis."""

    defaults: ClassVar[Mapping[str, str]] = {}
    """Option -> value that goes with such data, where neither a recipe nor the command line chooses."""

    tasks: tuple[str, ...]
    uncounted: tuple[str, ...] = field(default=(), kw_only=True)
    """Tasks that are left out of all means over tasks: those with noise as labels or targets."""

    @property
    def num_tasks(self) -> int:
        """T"""
        return len(self.tasks)


@dataclass(frozen=True)
class ControlSpec(Spec):
    """Environments with vectors of observations and actions. A batch is `core.types.Transitions` of all T tasks."""

    observation_size: int
    """O"""
    action_size: int
    """A; each component of an action is in [-1, 1]."""
    horizon: int
    """Steps after which an episode is truncated."""
    tells_success: bool = field(default=True, kw_only=True)
    """Whether all tasks tell when they are solved; if not, results are only returns."""


@dataclass(frozen=True)
class GoalSpec(ControlSpec):
    """Environments whose tasks are goals. A batch is `core.types.Transitions` of some goals, which it names."""

    defaults: ClassVar[Mapping[str, str]] = {"training": "goal_conditioned", "network": "mint"}

    goals: Tensor = field(compare=False)
    """(T, G) float32: the coordinates of each goal, each in [-1, 1]."""
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
    """(C, H, W)"""
    num_classes: tuple[int, ...]
    """Classes of each task, (T,)."""
    shared_input: bool = False
    """Whether all tasks label the same images, whose task axis is 1 in a batch."""


@dataclass(frozen=True)
class DenseSpec(Spec):
    """Several things to predict for each pixel of one picture. A batch is a `data.dense.DenseBatch`."""

    defaults: ClassVar[Mapping[str, str]] = {"agent": "dense", "training": "dense", "network": "split"}

    image_shape: tuple[int, int, int]
    """(C, H, W) of a whole picture"""
    kinds: tuple[str, ...]
    """The kind of each task, (T,): one of `data.pixel_tasks.KINDS`."""
    channels: tuple[int, ...]
    """The number of values that each task predicts for a pixel, (T,): one for each class in a segmentation."""


@dataclass(frozen=True)
class GraspSpec(Spec):
    """Attempts to grasp in two domains, which are the tasks: source and target. A batch is a `data.images.ImageBatch`.

    Its images are what the camera sees around the gripper's command, with the wanted object's mask as the last channel.
    Its labels are those of `data.grasps`.
    """

    defaults: ClassVar[Mapping[str, str]] = {"agent": "grasp", "training": "grasping", "network": "conv"}

    crop_size: int
    """Pixels of an edge of such an image."""
