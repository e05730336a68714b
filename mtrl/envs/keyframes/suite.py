"""The ten tasks as a suite, with demonstrations by experts, evaluation on held-out scenes, and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from mtrl.core.config import option
from mtrl.core.specs import KeyframeSpec, Spec
from mtrl.core.suite import ChosenTasks, Suite
from mtrl.data.demos import CAMERAS, POLICY_CAMERAS, Demo, check_cameras
from mtrl.envs.keyframes.collect import collect
from mtrl.envs.keyframes.envs import KeyframeCopies
from mtrl.envs.keyframes.film import Policy, film
from mtrl.envs.keyframes.scene import PIXELS
from mtrl.envs.keyframes.tasks import TASKS


@dataclass
class Config(ChosenTasks):
    """Options of the keyframe tasks."""

    spec_type: ClassVar[type[Spec]] = KeyframeSpec

    kind: str = "keyframes"
    tasks: list[str] = field(default_factory=lambda: list(TASKS), kw_only=True)
    """Some of the ten tasks, in this order; all of them if empty."""
    image_size: int = option(128, f"in 16..{PIXELS}")
    """Pixels along each side of the square pictures."""
    cameras: list[str] = field(default_factory=lambda: list(POLICY_CAMERAS))
    """The policy's cameras: some of left_shoulder, right_shoulder, overhead, wrist and front."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_tasks(TASKS)
        check_cameras(self.cameras)


class KeyframesSuite(Suite[Config, KeyframeSpec]):
    """Ten MuJoCo tasks modelled on those of the same names in RLBench. Their scores are not comparable with RLBench's.

    The robot is a gripper without an arm, so every pose in the workspace can be reached.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = KeyframeSpec(tuple(config.tasks or TASKS), tuple(config.cameras), config.image_size)

    @property
    def keyframes(self) -> dict[str, int]:
        """task -> the number of keyframes in its demonstrations, which is also the most actions in an episode."""
        return {task: TASKS[task].keyframes for task in self.tasks}

    def demonstrations(self, seed: int, episodes: int, every_frame: bool = False) -> Iterator[Demo]:
        """Yield `episodes` demonstrations of each task, task by task.

        every_frame: draw all five cameras at every frame, as in RLBench's folders. Otherwise only the policy's cameras
        are drawn, and only at the frames at which it decides.

        Raises:
            RenderingUnavailable: offscreen OpenGL is not available.
            UserError: an expert fails too often in a row.
        """
        cameras = CAMERAS if every_frame else self.spec.cameras
        size = self.config.image_size
        return collect(self.tasks, episodes, seed, cameras=cameras, image_size=size, every_frame=every_frame)

    def make_evaluation_envs(self, seed: int, envs_per_task: int) -> KeyframeCopies:
        """Environments for evaluation. No demonstration has their scenes, whatever its seed."""
        return KeyframeCopies(self.tasks, envs_per_task, seed, self.spec.cameras, self.config.image_size)

    def film(self, policy: Policy, path: Path, seed: int) -> None:
        """Write a video of the first evaluation episode of every task."""
        with contextlib.closing(self.make_evaluation_envs(seed, 1)) as envs:
            film(policy, envs, self.tasks, path)

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "keyframes": self.keyframes,
            "ranges": {task: TASKS[task].ranges for task in self.tasks},
            "cameras": list(self.spec.cameras),
            "image_size": self.config.image_size,
            "scenes": "evaluation scenes are held out from demonstrations",
            "comparable_with_rlbench": False,
            "mujoco": version("mujoco"),
        }
