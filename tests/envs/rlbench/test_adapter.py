"""RLBench live, without a simulator: against stand-ins, and against RLBench's own classes where its sources are."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.data.demos import Frame
from mtrl.envs import SUITES
from mtrl.envs.rlbench.copies import RLBenchCopies, SimulatorProcess, scene_seed
from mtrl.envs.rlbench.simulator import Simulator

SOURCES = os.environ.get("RLBENCH_SOURCES", "")
"""A folder with checkouts of RLBench and PyRep in it."""


def frame(x: float) -> Frame:
    return Frame(np.array([x, 0, 0, 0, 0, 0, 1.0]), 1.0, np.zeros(7), np.zeros(7))


class Scripted:
    """A simulator in which the action's x decides: below 0 it cannot be done, above 1 it solves the task."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.steps = 0
        self.closed = False

    def reset(self, seed: int) -> Frame:
        self.seeds.append(seed)
        self.steps = 0
        return frame(0)

    def step(self, action: np.ndarray) -> tuple[Frame | None, bool]:
        self.steps += 1
        return (None, False) if action[0] < 0 else (frame(action[0]), bool(action[0] > 1))

    def close(self) -> None:
        self.closed = True


def actions(*x: float) -> np.ndarray:
    made = np.zeros((len(x), 1, 8))
    made[:, 0, 0] = x
    return made


def test_invalid_actions_and_the_horizon_are_failures_and_an_ended_episode_rests() -> None:
    simulators = [Scripted() for _ in range(3)]
    envs = RLBenchCopies(simulators, ["a", "b", "c"], seed=1, horizon=3)
    envs.reset(4)
    step = envs.step(actions(-1, 2, 0.5))
    assert step.over[:, 0].tolist() == [True, True, False] and step.success[:, 0].tolist() == [False, True, False]
    for x in (0.6, 0.7):
        step = envs.step(actions(2, -1, x))
    assert step.over.all() and step.success[:, 0].tolist() == [False, True, False]
    assert [s.steps for s in simulators] == [1, 1, 3] and step.frames[2][0].gripper_pose[0] == 0.7
    envs.close()
    assert all(s.closed for s in simulators)


def test_scenes_follow_from_seed_task_and_number_and_are_held_out() -> None:
    simulators = [Scripted(), Scripted()]
    envs = RLBenchCopies(simulators, ["a", "b"], seed=1, horizon=3)
    for number in (0, 1, 0):
        envs.reset(number)
    first, second = (s.seeds for s in simulators)
    assert first[0] == first[2] and len({*first, *second}) == 4
    demos = {scene_seed(1, task, number, "demos") for task in "ab" for number in range(200)}
    assert len(demos) == 400 and not demos & {*first, *second}


def test_without_the_simulator_one_line_says_how_to_install_it() -> None:
    suite = SUITES.build(SUITES.config_class("rlbench")(tasks=["reach_target"]))
    calls = [lambda: suite.make_evaluation_envs(1, 5), lambda: next(suite.demonstrations(1, 1))]
    for call in calls:
        with pytest.raises(UserError, match=r"docker/rlbench/install\.sh installs them\. Found: No module named"):
            call()


def test_a_simulators_error_comes_out_of_its_process() -> None:
    process = SimulatorProcess("reach_target", ("front",), 16)
    with pytest.raises(UserError, match=r"docker/rlbench/install\.sh"):
        process.receive()
    process._process.join()
    with pytest.raises(RuntimeError, match="ended unexpectedly"):
        process.send("reset", 1)
    process.close()


class InvalidActionError(Exception):
    pass


class StandIn:
    """RLBench's `Environment` and `TaskEnvironment` in one."""

    made: Any = None

    def __init__(self, mode: Any, obs_config: Any, headless: bool) -> None:
        StandIn.made = self
        self.observed, self.headless, self.running = obs_config, headless, False

    def launch(self) -> None:
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def get_task(self, task: str) -> StandIn:
        self.task = task
        return self

    def set_variation(self, variation: int) -> None:
        self.variation = variation

    def reset(self) -> Any:
        return ["words"], self.observation(np.random.uniform(size=3))

    def step(self, action: np.ndarray) -> Any:
        assert np.isclose(np.linalg.norm(action[3:7]), 1, atol=1e-9)
        if action[2] > 1:
            raise InvalidActionError
        return self.observation(action[:3]), float(action[2] < 0.1), False

    def get_demos(self, amount: int, live_demos: bool) -> list[Any]:
        assert live_demos
        return [[self.reset()[1] for _ in range(3)] for _ in range(amount)]

    def observation(self, xyz: np.ndarray) -> Any:
        made = types.SimpleNamespace(gripper_open=1.0, joint_velocities=[0.0] * 7, joint_positions=[0.0] * 7)
        made.gripper_pose = np.append(xyz, [0, 0, 0, 1])
        made.misc = {"front_camera_extrinsics": np.eye(4), "front_camera_intrinsics": np.eye(3)}
        made.misc |= {"front_camera_near": 0.1, "front_camera_far": 2.0}
        made.front_rgb, made.front_depth = np.full((16, 16, 3), 9, np.uint8), np.ones((16, 16))
        return made


@pytest.fixture
def rlbench(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Modules under RLBench's and PyRep's names."""

    class Anything:
        def __init__(self, *_: Any, **options: Any) -> None:
            self.options = options

        def set_all(self, value: bool) -> None:
            self.rgb = self.depth = self.mask = self.point_cloud = value

    contents = {
        "pyrep": {},
        "pyrep.backend": {},
        "pyrep.backend.sim": {},
        "pyrep.errors": {"ConfigurationPathError": KeyError, "IKError": IndexError},
        "rlbench": {},
        "rlbench.environment": {"Environment": StandIn},
        "rlbench.utils": {"name_to_task_class": str},
        "rlbench.action_modes": {},
        "rlbench.action_modes.action_mode": {"MoveArmThenGripper": Anything},
        "rlbench.action_modes.arm_action_modes": {"EndEffectorPoseViaPlanning": Anything},
        "rlbench.action_modes.gripper_action_modes": {"Discrete": Anything},
        "rlbench.observation_config": {"CameraConfig": Anything, "ObservationConfig": Anything},
        "rlbench.backend": {},
        "rlbench.backend.exceptions": {"InvalidActionError": InvalidActionError, "TaskEnvironmentError": OSError},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    return StandIn


def test_unknown_tasks_and_variations_are_refused_by_name(rlbench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise {"name_to_task_class": ValueError, "set_variation": OSError}[wrong]("RLBench's words")

    wrong = "name_to_task_class"
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["rlbench.utils"], wrong, unknown)
        with pytest.raises(
            UserError, match=r"`benchmark.tasks` should be made of names of RLBench's tasks. Found 'reach"
        ):
            Simulator("reach_targt", ["front"], 16, headless=True)
    wrong = "set_variation"
    monkeypatch.setattr(rlbench, wrong, unknown)
    with pytest.raises(UserError, match=r"`benchmark.variation` should be one that reach_target has. Found 99"):
        Simulator("reach_target", ["front"], 16, headless=True, variation=99)
    assert not rlbench.made.running


def test_a_simulator_plays_keyframes(rlbench: Any) -> None:
    simulator = Simulator("reach_target", ["front"], 16, headless=True, variation=2)
    made = rlbench.made
    assert (made.task, made.variation, made.headless, made.running) == ("reach_target", 2, True, True)
    cameras = made.observed.options
    assert cameras["front_camera"].rgb and cameras["front_camera"].depth and not cameras["front_camera"].mask
    assert not cameras["wrist_camera"].rgb
    first, again, other = (simulator.reset(seed).gripper_pose for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    seen, success = simulator.step(np.array([0.1, 0.2, 0.3, 0, 0, 0, 2.0, 1]))
    assert seen is not None and not success and np.allclose(seen.gripper_pose[:3], [0.1, 0.2, 0.3])
    assert seen.images["front"].rgb.shape == (16, 16, 3) and seen.cameras["front"].far == 2.0
    assert simulator.step(np.array([0.1, 0.2, 0.05, 0, 0, 0, 1.0, 1]))[1]
    for invalid in ([0, 0, 1.5, 0, 0, 0, 1, 1], [0, 0, np.nan, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]):
        assert simulator.step(np.array(invalid, float)) == (None, False)
    demo = simulator.demonstrate(7)
    assert (demo.task, demo.variation, demo.seed, len(demo)) == ("reach_target", 2, 7, 3)
    simulator.close()
    assert not made.running


UPSTREAM = """
import sys, types
from unittest.mock import MagicMock
sys.path[:0] = [sys.argv[1] + "/RLBench", sys.argv[1] + "/PyRep"]
stub = types.ModuleType("pyrep.backend._sim_cffi")
stub.ffi, stub.lib = MagicMock(), MagicMock()
sys.modules["pyrep.backend._sim_cffi"] = stub
package = types.ModuleType("rlbench")  # its __init__ registers every task with gymnasium
package.__path__ = [sys.argv[1] + "/RLBench/rlbench"]
sys.modules["rlbench"] = package
for name in ("natsort", "pyquaternion"):
    try:
        __import__(name)
    except ImportError:
        module = sys.modules[name] = types.ModuleType(name)
        module.natsorted, module.Quaternion = sorted, MagicMock()
import numpy as np
from pyrep.errors import ConfigurationPathError
from rlbench.backend.observation import Observation
from rlbench.demo import Demo
from rlbench.environment import Environment
from rlbench.task_environment import TaskEnvironment
from rlbench.tasks.reach_target import ReachTarget
from mtrl.envs.rlbench.simulator import Simulator

names = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
state = {"pose": np.array([0.3, 0, 1.0, 0, 0, 0, 1]), "solved": False}

def observation(config):
    fields = {f"{n}_{k}": None for n in names for k in ("rgb", "depth", "mask", "point_cloud")}
    misc = {}
    for n in names:
        camera = getattr(config, n + "_camera")
        if camera.rgb:
            fields[n + "_rgb"] = np.full((*camera.image_size, 3), 50, np.uint8)
        if camera.depth:
            fields[n + "_depth"] = np.full(camera.image_size, 1.0 if camera.depth_in_meters else 0.5)
        misc |= {f"{n}_camera_extrinsics": np.eye(4), f"{n}_camera_intrinsics": np.eye(3)}
        misc |= {f"{n}_camera_near": 0.01, f"{n}_camera_far": 3.5}
    low = dict(joint_velocities=np.zeros(7), joint_positions=np.zeros(7), joint_forces=None, gripper_open=1.0)
    low |= dict(gripper_pose=state["pose"], gripper_matrix=None, gripper_joint_positions=None)
    return Observation(**fields, **low, gripper_touch_forces=None, task_low_dim_state=None, misc=misc)

class Path:
    def step(self):
        return True

def get_path(position, quaternion, **_):
    if position[2] > 1.5:
        raise ConfigurationPathError("no path")
    state["pose"] = np.concatenate([position, quaternion])
    return Path()

def launch(self):
    self._scene = MagicMock()
    self._scene.get_observation.side_effect = lambda: observation(self._obs_config)
    self._scene.init_episode.return_value = ["reach it"]
    self._scene.check_target_in_workspace.side_effect = lambda p: abs(p[0]) < 1
    self._scene.robot.arm.get_path.side_effect = get_path
    self._scene.robot.gripper.get_open_amount.return_value = [1.0, 1.0]
    self._scene.robot.gripper.actuate.return_value = True
    self._scene.task.get_graspable_objects.return_value = []
    self._scene.get_demo.side_effect = lambda **_: Demo([observation(self._obs_config) for _ in range(4)])

def get_task(self, task_class):
    assert task_class.__name__ == "ReachTarget"
    task = MagicMock()
    task.variation_count.return_value = 3
    task.success.side_effect = lambda: (state["pose"][2] < 0.8, False)
    self._scene.task = task
    robot = MagicMock()
    modes = (self._action_mode, "", self._obs_config)
    return TaskEnvironment(MagicMock(), robot, self._scene, task, *modes)

Environment.launch, Environment.get_task, Environment.shutdown = launch, get_task, lambda self: None
simulator = Simulator("reach_target", ["wrist", "front"], 32, variation=1)
frame = simulator.reset(3)
assert sorted(frame.images) == ["front", "wrist"] and frame.images["wrist"].rgb.shape == (32, 32, 3)
assert (frame.images["front"].depth == 1.0).all(), "depth in metres"
frame, success = simulator.step(np.array([0.3, 0.1, 0.9, 0, 0, 0, 1.5, 1.0]))
assert frame is not None and not success and np.allclose(frame.gripper_pose[:3], [0.3, 0.1, 0.9])
assert simulator.step(np.array([0.3, 0.1, 2.0, 0, 0, 0, 1, 1.0])) == (None, False), "no path"
assert simulator.step(np.array([3.0, 0.1, 0.9, 0, 0, 0, 1, 1.0])) == (None, False), "outside the workspace"
frame, success = simulator.step(np.array([0.3, 0.1, 0.7, 0, 0, 0, 1, 0.0]))
assert success and len(simulator.demonstrate(4)) == 4
print("as RLBench's own classes have it")
"""


@pytest.mark.skipif(not SOURCES, reason="RLBENCH_SOURCES names no folder with checkouts of RLBench and PyRep")
def test_the_adapter_fits_rlbenchs_own_classes() -> None:
    """Environment, action modes and exceptions are RLBench's; scene and robot are mocks, PyRep's library is one too."""
    command = [sys.executable, "-W", "ignore", "-c", UPSTREAM, SOURCES]
    found = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert found.stdout.strip() == "as RLBench's own classes have it", found.stderr
