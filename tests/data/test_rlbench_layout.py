"""RLBench's folders: real episodes are read, written ones come back and load with RLBench's own code."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.data import rlbench_layout, rlbench_pickle
from mtrl.data.demos import CAMERAS, POLICY_CAMERAS, CameraModel, Demo, Frame, Image, keyframes
from mtrl.data.depth import point_cloud
from mtrl.data.rlbench_layout import LOW_DIM, episodes, read_demo, write_demo
from mtrl.data.rlbench_pickle import DEMO, OBSERVATION

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "rlbench_demos"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="RLBench's example episodes are not beside the project")
SOURCES = os.environ.get("RLBENCH_SOURCES", "")
"""A folder with checkouts of RLBench and PyRep in it."""


def equal(one: Any, other: Any) -> bool:
    if dataclasses.is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return np.array_equal(one, other)


def frame(rng: np.random.Generator, size: int = 8) -> Frame:
    pose = np.append(rng.normal(size=3), [0.6, 0, 0, 0.8])
    made = Frame(pose, float(rng.integers(2)), rng.normal(size=7), rng.normal(size=7))
    for name in CAMERAS:
        extrinsics = np.eye(4)
        extrinsics[:3, 3] = rng.normal(size=3)
        made.cameras[name] = CameraModel(extrinsics, np.diag([-9.0, -9.0, 1]), 0.01, 3.5)
        packed = rng.integers(0, 2**24, (size, size))
        depth = (0.01 + packed / (2**24 - 1) * 3.49).astype(np.float32)
        rgb = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        made.images[name] = Image(rgb, depth, rng.integers(0, 2**24, (size, size)))
    return made


def demo(seed: int = 0, length: int = 3, **more: Any) -> Demo:
    rng = np.random.default_rng(seed)
    frames = [frame(rng) for _ in range(length)]
    return Demo("stack_wine", frames, **{"variation": 2, "descriptions": ["stack the wine"], "seed": 11, **more})


@needs_real
@pytest.mark.parametrize(("number", "length"), [(0, 70), (1, 64)])
def test_the_real_episodes_have_one_keyframe_the_last(number: int, length: int) -> None:
    path = episodes(REAL, "reach_target")[number]
    made = read_demo(path, POLICY_CAMERAS, frames=[0, length - 1])
    assert (made.task, made.variation, len(made), keyframes(made)) == ("reach_target", 0, length, [length - 1])
    image = made.frames[0].images["wrist"]
    assert image.rgb.shape == (128, 128, 3) and image.depth is not None and image.depth.shape == (128, 128)
    assert "rlbench" not in sys.modules


@needs_real
def test_the_real_clouds_of_all_cameras_agree_on_the_table() -> None:
    """Points of a camera, seen by another, lie at the depth that this one has there: the geometry is right."""
    made = read_demo(episodes(REAL, "reach_target")[0], POLICY_CAMERAS, frames=[0]).frames[0]
    points = {name: cloud(made, name) for name in POLICY_CAMERAS}
    for name in POLICY_CAMERAS[:2]:
        other = made.cameras["wrist"]
        local = (points[name] - other.extrinsics[:3, 3]) @ other.extrinsics[:3, :3]
        depth = made.images["wrist"].depth
        assert depth is not None
        uv = np.rint(local[..., :2] / local[..., 2:] * np.diag(other.intrinsics)[:2] + other.intrinsics[:2, 2])
        inside = ((uv >= 0) & (uv < 128)).all(-1) & (local[..., 2] > 0)
        u, v = uv[inside].astype(int).T
        close = np.abs(depth[v, u] - local[inside][:, 2]) < 0.02
        assert inside.sum() > 500 and close.mean() > 0.7


def cloud(made: Frame, name: str) -> np.ndarray:
    """(H, W, 3)"""
    depth, model = made.images[name].depth, made.cameras[name]
    assert depth is not None
    arrays = (depth.astype(np.float64), model.intrinsics, model.extrinsics)
    return point_cloud(*(torch.from_numpy(np.asarray(a, np.float64)) for a in arrays)).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("all_variations", [False, True], ids=["variation", "all_variations"])
def test_what_is_written_comes_back_alike(tmp_path: Path, all_variations: bool) -> None:
    written = demo()
    path = write_demo(written, tmp_path, 0, all_variations=all_variations)
    assert episodes(tmp_path, "stack_wine") == [path] and episodes(tmp_path, "stack_wine", 2) == [path]
    assert equal(read_demo(path, CAMERAS, masks=True), written)
    one = read_demo(path, ["front"], frames=[1])
    assert [list(f.images) for f in one.frames] == [[], ["front"], []]


def test_episodes_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_demo(demo(length=1), tmp_path, number)
    assert [p.name for p in episodes(tmp_path, "stack_wine")] == ["episode0", "episode2", "episode10"]


def test_an_episode_that_lies_in_all_variations_too_counts_once(tmp_path: Path) -> None:
    """Folders that were copied by hand have names that no episode has."""
    one = write_demo(demo(1, length=1), tmp_path, 0)
    other = write_demo(demo(2, length=1), tmp_path, 0, all_variations=True)
    assert sorted(episodes(tmp_path, "stack_wine")) == sorted([one, other])
    shutil.copytree(one, one.with_name("episode0 (copy)"))
    shutil.copytree(one, other.with_name("episode1"))
    shutil.copytree(one.parents[1], one.parents[1].with_name("variation2_old"))
    assert sorted(episodes(tmp_path, "stack_wine")) == sorted([one, other])
    assert sorted(episodes(tmp_path, "stack_wine", 2)) == sorted([one, other])


@pytest.mark.parametrize("found", [None, b"\x80\x03junk", pickle.dumps({"not": "words"}), pickle.dumps([1, 2])])
def test_descriptions_may_be_missing_or_malformed(tmp_path: Path, found: bytes | None) -> None:
    path = write_demo(demo(length=1), tmp_path, 0)
    words = path.parents[1] / rlbench_layout.DESCRIPTIONS
    words.unlink() if found is None else words.write_bytes(found)
    assert read_demo(path, CAMERAS).descriptions == []


def damaged(name: str, path: Path) -> str:
    """Damage an episode; what the error should say."""
    rgb, depth = path / "front_rgb" / "1.png", path / "front_depth" / "1.png"
    if name == "truncated picture":
        rgb.write_bytes(rgb.read_bytes()[:100])
        return r"File .*front_rgb/1\.png should be an intact PNG picture"
    if name == "missing camera":
        rgb.unlink()
        return r"File .*front_rgb/1\.png should be a picture\. Found 'no such file'"
    if name == "short depth":
        depth.unlink()
        return r"File .*front_depth/1\.png should be a picture\. Found 'no such file'"
    if name == "no picture":
        rgb.write_text("hello")
        return r"File .*front_rgb/1\.png should be a PNG picture"
    if name == "another size":
        depth.write_bytes((write_demo(one_size_larger(), path.parent, 0) / "front_depth" / "0.png").read_bytes())
        return r"File .*front_depth/1\.png should be of size \(8, 8\), as the colours are"
    if name == "no low-dimensional file":
        (path / LOW_DIM).unlink()
        return r"File .*low_dim_obs\.pkl should be a readable pickle"
    assert name == "another pickle"
    (path / LOW_DIM).write_bytes(pickle.dumps({"a": 1}))
    return r"File .*low_dim_obs\.pkl should be one demonstration"


def one_size_larger() -> Demo:
    return Demo("other", [frame(np.random.default_rng(0), 16)])


DAMAGES = [
    "truncated picture",
    "missing camera",
    "short depth",
    "no picture",
    "another size",
    "no low-dimensional file",
    "another pickle",
]


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    path = write_demo(demo(), tmp_path, 0)
    message = damaged(name, path)
    with pytest.raises(UserError, match=message) as caught:
        read_demo(path, CAMERAS)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def stand_ins(*names: tuple[str, str]) -> Iterator[list[type]]:
    """Classes without attributes under the names of RLBench's, which need not be installed."""
    with pytest.MonkeyPatch.context() as patch:
        for module, _ in names:
            parts = module.split(".")
            for name in (".".join(parts[: k + 1]) for k in range(len(parts))):
                patch.setitem(sys.modules, name, types.ModuleType(name))
        kinds = [type(name, (), {"__module__": module}) for module, name in names]
        for kind in kinds:
            setattr(sys.modules[kind.__module__], kind.__name__, kind)
        yield kinds


def changed(path: Path, name: str, value: Any) -> None:
    """Give an attribute of a written episode's second frame, or of a camera in it, another value."""
    with stand_ins(DEMO, OBSERVATION):
        loaded = pickle.loads((path / LOW_DIM).read_bytes())
        observation = loaded._observations[1]
        holder = observation.misc if name in observation.misc else vars(observation)
        holder[name] = value
        (path / LOW_DIM).write_bytes(pickle.dumps(loaded))


def test_a_gripper_that_is_an_array_of_one_number_is_read(tmp_path: Path) -> None:
    path = write_demo(demo(), tmp_path, 0)
    changed(path, "gripper_open", np.array([0.25]))
    assert read_demo(path, CAMERAS, frames=()).frames[1].gripper_open == 0.25


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gripper_pose", np.array([0, 0, 1, 0, 0, 0, 0.0]), "a unit quaternion in gripper_pose. .* of length 0"),
        ("gripper_pose", np.array([0, np.nan, 1, 0, 0, 0, 1]), "finite numbers in gripper_pose"),
        ("gripper_pose", np.zeros(6), r"gripper_pose of shape \(7,\). Found \(6,\)"),
        ("gripper_pose", None, r"gripper_pose of shape \(7,\). Found 'none'"),
        ("gripper_open", np.zeros(2), r"gripper_open of shape \(\). Found \(2,\)"),
        ("gripper_open", np.inf, "finite numbers in gripper_open"),
        ("joint_velocities", np.full(7, np.nan), "finite numbers in joint_velocities"),
        ("joint_positions", "bent", "numbers in joint_positions. Found 'str'"),
        ("front_camera_extrinsics", np.full((4, 4), np.nan), "finite numbers in front_camera_extrinsics"),
        ("front_camera_intrinsics", np.zeros((3, 3)), "non-zero focal lengths for camera front"),
        ("front_camera_far", 0.0, "near < far"),
        ("front_camera_near", np.zeros(2), r"front_camera_near of shape \(\)"),
    ],
)
def test_what_is_no_pose_or_camera_is_named_with_its_frame(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    path = write_demo(demo(), tmp_path, 0)
    changed(path, name, value)
    with pytest.raises(UserError, match=rf"Frame 1 of .*low_dim_obs\.pkl should be with .*{reason}") as caught:
        read_demo(path, CAMERAS, frames=())
    assert "\n" not in str(caught.value)


def test_demonstrations_by_two_arms_are_not_read(tmp_path: Path) -> None:
    with stand_ins((OBSERVATION[0], "BimanualObservation")) as (kind,):
        (tmp_path / LOW_DIM).write_bytes(pickle.dumps([kind()]))
    with pytest.raises(
        UserError, match=r"demonstration by one arm \(two are not supported\)\. Found 'BimanualObservation'"
    ):
        rlbench_pickle.read_low_dim(tmp_path / LOW_DIM)


def test_only_the_configured_cameras_are_required(tmp_path: Path) -> None:
    path = write_demo(demo(), tmp_path, 0)
    for name in ("overhead", "front"):
        for kind in ("rgb", "depth"):
            for file in (path / f"{name}_{kind}").iterdir():
                file.unlink()
    assert len(read_demo(path, POLICY_CAMERAS)) == 3


def test_files_before_1_1_0_are_refused_where_points_are_wanted(tmp_path: Path) -> None:
    written = demo()
    path = write_demo(written, tmp_path, 0)
    for f in written.frames:
        f.cameras = {}
    rlbench_layout.write_low_dim(written, path / LOW_DIM)
    assert len(read_demo(path, CAMERAS, frames=())) == 3
    with pytest.raises(UserError, match=r"File .*low_dim_obs\.pkl should hold the model of camera front.* 1\.1\.0"):
        read_demo(path, ["front"])


def test_another_class_in_an_episode_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, canary = write_demo(demo(), tmp_path, 0), tmp_path / "canary"
    data = (path / LOW_DIM).read_bytes()
    call = f"cos\nsystem\n(Vtouch {canary}\ntR0".encode()
    (path / LOW_DIM).write_bytes(data[:2] + call + data[2:])
    with pytest.raises(UserError, match=r"Found os\.system\."):
        read_demo(path, CAMERAS)
    assert not canary.exists()


def test_an_episode_is_never_overwritten(tmp_path: Path) -> None:
    write_demo(demo(length=1), tmp_path, 0)
    with pytest.raises(UserError, match="episode0 should be new"):
        write_demo(demo(length=1), tmp_path, 0)


UPSTREAM = """
import sys, types, pickle
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
from rlbench.utils import get_stored_demos
from rlbench.observation_config import ObservationConfig
config = ObservationConfig()
for name in ("left_shoulder", "right_shoulder", "overhead", "wrist", "front"):
    camera = getattr(config, name + "_camera")
    camera.image_size, camera.depth_in_meters = (8, 8), True
    camera.mask = False  # which RLBench cannot read under NumPy 2
demo = get_stored_demos(1, False, sys.argv[2], 2, "stack_wine", config, random_selection=False)[0]
demo.restore_state()
observations = [vars(demo[i]) for i in range(len(demo))]
pickle.dump(observations, open(sys.argv[3], "wb"))
"""


@pytest.mark.skipif(not SOURCES, reason="RLBENCH_SOURCES names no folder with checkouts of RLBench and PyRep")
def test_rlbenchs_own_reader_finds_the_same(tmp_path: Path) -> None:
    """Pictures, depth and points by `get_stored_demos` and PyRep's `VisionSensor`, in another process."""
    written, output = demo(), tmp_path / "observations"
    write_demo(written, tmp_path, 0)
    command = [sys.executable, "-W", "ignore", "-c", UPSTREAM, SOURCES, str(tmp_path), str(output)]
    subprocess.run(command, check=True, timeout=120)
    found = pickle.loads(output.read_bytes())
    assert len(found) == len(written)
    for theirs, ours in zip(found, written.frames, strict=True):
        assert np.array_equal(theirs["gripper_pose"], ours.gripper_pose)
        assert theirs["gripper_open"] == ours.gripper_open and theirs["misc"]["variation_index"] == 2
        for name in CAMERAS:
            image = ours.images[name]
            assert np.array_equal(theirs[f"{name}_rgb"], image.rgb)
            assert np.allclose(theirs[f"{name}_depth"], np.asarray(image.depth), atol=1e-6)
            assert np.allclose(theirs[f"{name}_point_cloud"], cloud(ours, name), atol=1e-5)
