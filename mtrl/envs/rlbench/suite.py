"""RLBench as a suite: its options, new demonstrations and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from mtrl.core.config import check, option
from mtrl.core.specs import KeyframeSpec, Spec
from mtrl.core.suite import ChosenTasks, Suite
from mtrl.data.demos import CAMERAS, POLICY_CAMERAS, Demo, check_cameras
from mtrl.envs.rlbench.copies import RLBenchCopies, SimulatorProcess, scene_seed
from mtrl.envs.rlbench.simulator import Simulator, packages

TASKS = (
    "reach_target",
    "push_button",
    "pick_and_lift",
    "pick_up_cup",
    "put_knife_on_chopping_board",
    "take_money_out_safe",
    "put_money_in_safe",
    "take_umbrella_out_of_umbrella_stand",
    "stack_wine",
    "slide_block_to_target",
)
"""The ten tasks in Table 3 of the Auto-λ paper."""


@dataclass
class Config(ChosenTasks):
    """Options of RLBench."""

    spec_type: ClassVar[type[Spec]] = KeyframeSpec

    kind: str = "rlbench"
    tasks: list[str] = field(default_factory=lambda: list(TASKS), kw_only=True)
    """Names of RLBench's task files, such as reach_target; the Auto-λ paper's ten if empty."""
    image_size: int = option(128, "16 or more")
    """Pixels along a side of every picture."""
    cameras: list[str] = field(default_factory=lambda: list(POLICY_CAMERAS))
    """The policy's cameras: some of left_shoulder, right_shoulder, overhead, wrist and front."""
    variation: int = option(0, "0 or more")
    """Which variation of each task is used, counted from 0, in evaluation and in new demonstrations."""
    horizon: int = option(10, "a positive integer")
    """Keyframes after which an episode counts as failed."""
    headless: bool = True
    """Whether to run without a window. An X server, such as Xvfb, is needed in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = all(task.isidentifier() for task in self.tasks)
        check(names, "benchmark.tasks", "names such as reach_target", list(self.tasks))
        self.check_tasks(self.tasks)
        check_cameras(self.cameras)


class RLBenchSuite(Suite[Config, KeyframeSpec]):
    """RLBench's tasks. Evaluation and new demonstrations need the simulator; training on stored ones does not."""

    parallel_demonstrations = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = KeyframeSpec(tuple(config.tasks or TASKS), tuple(config.cameras), config.image_size)

    def demonstrations(self, seed: int, episodes: int, every_frame: bool = False) -> Iterator[Demo]:
        """Yield `episodes` demonstrations of each task, by RLBench's own experts.

        every_frame: whether pictures come from all five cameras, as in RLBench's folders, or only from the policy's.

        Raises:
            UserError: the simulator is not installed.
        """
        config = self.config
        for task in self.tasks:
            cameras = CAMERAS if every_frame else self.spec.cameras
            simulator = Simulator(task, cameras, config.image_size, config.headless, config.variation)
            try:
                for number in range(episodes):
                    yield simulator.demonstrate(scene_seed(seed, task, number, "demos"))
            finally:
                simulator.close()

    def check_evaluation(self) -> None:
        packages()

    def make_evaluation_envs(self, seed: int, envs_per_task: int) -> RLBenchCopies:
        """One copy of each task, in a process of its own. `envs_per_task` has no effect.

        Raises:
            UserError: the simulator is not installed.
        """
        packages()
        config = self.config
        simulators: list[SimulatorProcess] = []
        try:
            for task in self.tasks:
                arguments = (task, self.spec.cameras, config.image_size, config.headless, config.variation)
                simulators.append(SimulatorProcess(*arguments))
            for simulator in simulators:
                simulator.receive()
        except BaseException:
            for simulator in simulators:
                simulator.close()
            raise
        return RLBenchCopies(simulators, self.tasks, seed, config.horizon)

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "cameras": list(self.spec.cameras),
            "image_size": self.config.image_size,
            "variation": self.config.variation,
            "horizon": self.config.horizon,
            "action": "MoveArmThenGripper(EndEffectorPoseViaPlanning(), Discrete()); invalid actions are failures",
            "rlbench": _version("rlbench"),
            "pyrep": _version("pyrep"),
        }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def build(config: Config) -> RLBenchSuite:
    return RLBenchSuite(config)
