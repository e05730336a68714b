"""Runs one of RLBench's tasks in CoppeliaSim. Only this module imports `rlbench` and `pyrep`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.core.errors import UserError, expected
from mtrl.core.types import FloatArray
from mtrl.data.demos import CAMERAS, Demo, Frame, Image
from mtrl.data.rlbench_pickle import frame_of

_PLACINGS = 5
"""The most resets for one scene. If RLBench cannot place the objects in any of them, its error is raised."""


def packages() -> tuple[Any, Any]:
    """The modules `rlbench` and `pyrep`.

    Raises:
        UserError: one of them, or the simulator's library, cannot be imported.
    """
    try:
        importlib.import_module("pyrep.backend.sim")  # another package on PyPI is also called pyrep
        importlib.import_module("rlbench.environment")
        return importlib.import_module("rlbench"), importlib.import_module("pyrep")
    except Exception as error:  # a missing shared library can raise any kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            "RLBench's simulator should be installed: CoppeliaSim 4.1, PyRep and RLBench, as docker/rlbench/install.sh "
            f"installs them. Found: {reason}."
        ) from error


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


class Simulator:
    """One task. A seed determines its scene through NumPy's global generator, from which RLBench draws."""

    def __init__(self, task: str, cameras: Sequence[str], size: int, headless: bool = True, variation: int = 0) -> None:
        """cameras: those that take pictures; size: pixels along a side; variation: the number of the task's variation.

        Raises:
            UserError: the simulator cannot be imported, or has no such task or variation.
        """
        packages()
        modes = "rlbench.action_modes"
        arm = _named(f"{modes}.arm_action_modes", "EndEffectorPoseViaPlanning")()
        mode = _named(f"{modes}.action_mode", "MoveArmThenGripper")(
            arm, _named(f"{modes}.gripper_action_modes", "Discrete")()
        )
        self.task, self.cameras, self.variation = task, tuple(cameras), variation
        self._invalid = (
            _named("rlbench.backend.exceptions", "InvalidActionError"),
            *(_named("pyrep.errors", name) for name in ("IKError", "ConfigurationPathError")),
        )
        self._misplaced = _named("rlbench.backend.exceptions", "TaskEnvironmentError")
        environment = _named("rlbench.environment", "Environment")
        self._environment = environment(mode, obs_config=_observed(self.cameras, size), headless=headless)
        try:
            self._environment.launch()
            self._task = self._begun(task, variation)
        except BaseException:
            self._environment.shutdown()
            raise

    def _begun(self, task: str, variation: int) -> Any:
        try:
            found = self._environment.get_task(_named("rlbench.utils", "name_to_task_class")(task))
        except (ValueError, IndexError, LookupError, ImportError, AttributeError) as error:
            raise expected("Option `benchmark.tasks`", "made of names of RLBench's tasks", task) from error
        try:
            found.set_variation(variation)
        except self._misplaced as error:
            raise expected("Option `benchmark.variation`", f"one that {task} has", variation) from error
        return found

    def reset(self, seed: int) -> Frame:
        """Begin the scene of this seed, and return its first frame."""
        np.random.seed(seed)
        for left in reversed(range(_PLACINGS)):
            try:
                _, observation = self._task.reset()
                return self._frame(observation)
            except self._misplaced:
                if not left:
                    raise
        raise AssertionError

    def step(self, action: FloatArray) -> tuple[Frame | None, bool]:
        """Go to the keyframe (8,): xyz in metres, quaternion xyzw (of any length), gripper (> 0.5 open).

        Returns the frame there, and whether the task is solved. The frame is None if the pose cannot be reached, has a
        zero quaternion, or is not finite.
        """
        action = np.asarray(action, np.float64).copy()
        length = np.linalg.norm(action[3:7])
        if not np.isfinite(action).all() or length < 1e-6:
            return None, False
        action[3:7] /= length
        try:
            observation, reward, _ = self._task.step(action)
        except self._invalid:
            return None, False
        return self._frame(observation), bool(reward)

    def demonstrate(self, seed: int) -> Demo:
        """A demonstration by RLBench's own expert in the scene of this seed, or in a later one if the expert fails."""
        np.random.seed(seed)
        demo = self._task.get_demos(1, live_demos=True)[0]
        frames = [self._frame(demo[i]) for i in range(len(demo))]
        return Demo(self.task, frames, self.variation, seed=seed)

    def close(self) -> None:
        self._environment.shutdown()

    def _frame(self, observation: Any) -> Frame:
        frame = frame_of(observation, f"RLBench's observation of {self.task}")
        for name in self.cameras:
            rgb, depth = (getattr(observation, f"{name}_{kind}") for kind in ("rgb", "depth"))
            frame.images[name] = Image(np.asarray(rgb, np.uint8), np.asarray(depth, np.float32))
        return frame


def _observed(cameras: Sequence[str], size: int) -> Any:
    """RLBench's observation configuration: pictures, and depth in metres, of these cameras only."""
    module = importlib.import_module("rlbench.observation_config")
    made = {}
    for name in CAMERAS:
        made[f"{name}_camera"] = camera = module.CameraConfig(image_size=(size, size), depth_in_meters=True)
        camera.set_all(False)
        camera.rgb = camera.depth = name in cameras
    return module.ObservationConfig(**made, joint_forces=False)
