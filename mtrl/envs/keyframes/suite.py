"""The ten tasks as a suite: demonstrations by experts, evaluation on held-out scenes, films."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from mtrl.core.config import check
from mtrl.data.demos import CAMERAS, POLICY_CAMERAS, Demo
from mtrl.envs.keyframes.collect import collect
from mtrl.envs.keyframes.envs import KeyframeCopies
from mtrl.envs.keyframes.film import Policy, film
from mtrl.envs.keyframes.scene import PIXELS
from mtrl.envs.keyframes.tasks import TASKS
from mtrl.monitoring.video import RenderingUnavailable


@dataclass
class Config:
    """Options of the embedded manipulation suite."""

    implies: ClassVar[dict[str, str]] = {
        "agent": "bc",
        "training": "offline",
        "network": "keyframe",
        "steps": "8000",
    }

    kind: str = "keyframes"
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """Which of the ten, in this order."""
    image_size: int = 128
    """Pixels of an edge of every picture."""
    cameras: list[str] = field(default_factory=lambda: list(POLICY_CAMERAS))
    """What the policy sees, of left_shoulder, right_shoulder, overhead, wrist and front."""

    def __post_init__(self) -> None:
        check(self.kind == "keyframes", "benchmark.kind", "keyframes", self.kind)
        check(16 <= self.image_size <= PIXELS, "benchmark.image_size", f"in 16..{PIXELS}", self.image_size)
        for name, chosen, known in (("tasks", self.tasks, tuple(TASKS)), ("cameras", self.cameras, CAMERAS)):
            distinct = len(set(chosen)) == len(chosen) > 0 and set(chosen) <= set(known)
            check(distinct, f"benchmark.{name}", f"distinct names of {', '.join(known)}", list(chosen))


KeyframesConfig = Config


class KeyframesSuite:
    """Ten tasks that mirror RLBench's by name and kind, in MuJoCo. Not RLBench: scores are not comparable with its own.

    The robot is a gripper without an arm, so every pose in the workspace can be reached.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.name = config.kind
        self.tasks: Sequence[str] = tuple(config.tasks)
        self.cameras: Sequence[str] = tuple(config.cameras)
        self.sizes = {"cameras": self.cameras, "image_size": config.image_size}

    @property
    def keyframes(self) -> dict[str, int]:
        """task -> the number of keyframes of its demonstrations, and of actions in an episode."""
        return {task: TASKS[task].keyframes for task in self.tasks}

    def demonstrations(self, seed: int, episodes: int, every_frame: bool = False) -> Iterator[Demo]:
        """Yield `episodes` demonstrations of each task, task by task.

        every_frame: draw all five cameras at every frame, as RLBench's layout wants them; otherwise the policy's
        cameras where a policy decides.
        """
        cameras = CAMERAS if every_frame else self.cameras
        size = self.config.image_size
        return collect(self.tasks, episodes, seed, cameras=cameras, image_size=size, every_frame=every_frame)

    def make_evaluation_envs(self, seed: int, envs_per_task: int) -> KeyframeCopies:
        """Copies whose scenes no demonstration has, of any seed."""
        return KeyframeCopies(self.tasks, envs_per_task, seed, self.cameras, self.config.image_size)

    def film(self, policy: Policy, path: Path, seed: int) -> str | None:
        """Write a video of the first evaluation episode of every task; where it cannot, one line that says why."""
        try:
            envs = self.make_evaluation_envs(seed, 1)
            try:
                film(policy, envs, self.tasks, path)
            finally:
                envs.close()
        except RenderingUnavailable as error:
            return str(error)
        return None

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "keyframes": self.keyframes,
            "ranges": {task: TASKS[task].ranges for task in self.tasks},
            "cameras": list(self.cameras),
            "image_size": self.config.image_size,
            "scenes": "evaluation scenes are held out from demonstrations",
            "comparable_with_rlbench": False,
            "mujoco": version("mujoco"),
        }
