"""`low_dim_obs.pkl`: a pickled `rlbench.demo.Demo` of `rlbench.backend.observation.Observation`s, without RLBench."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.errors import expected
from mtrl.core.types import FloatArray
from mtrl.data import safe_pickle
from mtrl.data.demos import CAMERAS, CameraModel, Demo, Frame

DEMO, OBSERVATION = ("rlbench.demo", "Demo"), ("rlbench.backend.observation", "Observation")
_PICTURES = ("rgb", "depth", "mask", "point_cloud")
_PARTS = ("extrinsics", "intrinsics", "near", "far")


class _Attributes:
    """Stands for one of RLBench's classes: it takes attributes, and does nothing."""


class _Demo(_Attributes):
    """Written as RLBench's Demo."""


class _Observation(_Attributes):
    """Written as RLBench's Observation."""


def read_low_dim(path: Path) -> tuple[list[Frame], int | None]:
    """The frames of an episode, without pictures, and the seed of its scene where it can be told.

    Raises:
        UserError: the file is missing or damaged, names another class, or is not one of a demonstration.
    """
    # Classes of this file's own: what it does to them ends with it.
    classes = {name: type(name[1], (_Attributes,), {}) for name in (DEMO, OBSERVATION)}
    loaded = safe_pickle.load(path, {**safe_pickle.NUMPY, **classes})
    found = getattr(loaded, "_observations", loaded)
    kind = classes[OBSERVATION]
    if not isinstance(found, list) or not found or not all(isinstance(o, kind) for o in found):
        raise expected(f"File {path}", "one demonstration of RLBench with at least one frame", type(loaded).__name__)
    return [frame_of(o, f"File {path}") for o in found], _seed(getattr(loaded, "random_seed", None))


def _seed(state: Any) -> int | None:
    """The seed whose generator RLBench kept: None for a generator that had already been used."""
    try:
        first = int(state[1][0])
        return first if np.array_equal(state[1], _generator_state(first)[1]) else None
    except (TypeError, IndexError, KeyError, ValueError):
        return None


def _generator_state(seed: int) -> Any:
    """What `numpy.random.get_state` gives after `numpy.random.seed(seed)`."""
    return np.random.RandomState(seed).get_state()


def frame_of(observation: Any, where: str) -> Frame:
    """The frame, without pictures, that one of RLBench's observations tells of; where: what an error is about."""
    values = []
    for name in ("gripper_pose", "joint_velocities", "joint_positions", "gripper_open"):
        value = getattr(observation, name, None)
        if value is None:
            raise expected(where, f"with {name} at each frame", "none")
        values.append(value)
    pose, velocities, positions = (np.array(a, np.float64) for a in values[:3])
    if pose.shape != (7,):
        raise expected(where, "with gripper poses of 7 numbers", pose.shape)
    return Frame(pose, float(values[3]), velocities, positions, _cameras(observation, where))


def _cameras(observation: Any, where: str) -> dict[str, CameraModel]:
    """The models of the cameras that have one; before 1.1.0 none has."""
    misc = getattr(observation, "misc", None)
    misc = misc if isinstance(misc, dict) else {}
    found = {}
    for name in CAMERAS:
        values = [misc.get(f"{name}_camera_{part}") for part in _PARTS]
        if all(value is not None for value in values):
            extrinsics, intrinsics = (np.array(m, np.float64) for m in values[:2])
            if extrinsics.shape != (4, 4) or intrinsics.shape != (3, 3):
                shapes = (extrinsics.shape, intrinsics.shape)
                raise expected(where, f"with a (4, 4) and a (3, 3) matrix of camera {name}", shapes)
            found[name] = CameraModel(extrinsics, intrinsics, float(values[2]), float(values[3]))  # type: ignore[arg-type]
    return found


def write_low_dim(demo: Demo, path: Path) -> None:
    """Write what `read_low_dim` reads, in the form that RLBench itself unpickles, under NumPy 1 and 2."""
    written = _Demo()
    written.__dict__ = {
        "_observations": [_observation(frame, demo) for frame in demo.frames],
        "random_seed": None if demo.seed is None else _generator_state(demo.seed),
        "num_reset_attempts": None,
    }
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=3).dump(written)
    path.write_bytes(buffer.getvalue())


def _observation(frame: Frame, demo: Demo) -> _Observation:
    misc: dict[str, Any] = {"variation_index": demo.variation}
    for name, camera in frame.cameras.items():
        values = (camera.extrinsics, camera.intrinsics, camera.near, camera.far)
        misc |= {f"{name}_camera_{part}": value for part, value in zip(_PARTS, values, strict=True)}
    made = _Observation()
    made.__dict__ = {
        **{f"{camera}_{kind}": None for camera in CAMERAS for kind in _PICTURES},
        "joint_velocities": frame.joint_velocities,
        "joint_positions": frame.joint_positions,
        "joint_forces": None,
        "gripper_open": frame.gripper_open,
        "gripper_pose": frame.gripper_pose,
        "gripper_matrix": _matrix(frame.gripper_pose),
        "gripper_joint_positions": None,
        "gripper_touch_forces": None,
        "task_low_dim_state": None,
        "misc": misc,
    }
    return made


def _matrix(pose: FloatArray) -> FloatArray:
    """(4, 4) of a pose (7,)."""
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    matrix = np.eye(4)
    matrix[:3, 3] = pose[:3]
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return matrix


class _Pickler(pickle._Pickler):
    """Pickles under the names that the reader has: RLBench's classes, and NumPy 1's modules, which both know."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        written = {_Demo: DEMO, _Observation: OBSERVATION}.get(obj) if isinstance(obj, type) else None
        module = getattr(obj, "__module__", None) or ""
        if written is None and module.startswith("numpy._core"):
            written = (module.replace("_core", "core", 1), obj.__name__)
        if written is None:
            super().save_global(obj, name)  # type: ignore[misc]
            return
        self.write(pickle.GLOBAL + "{}\n{}\n".format(*written).encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]
