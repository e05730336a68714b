"""Reads and writes `low_dim_obs.pkl`, a pickled `rlbench.demo.Demo`, without RLBench."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.errors import expected
from mtrl.core.types import FloatArray
from mtrl.data import safe_pickle
from mtrl.data.demos import CAMERAS, CameraModel, Demo, Frame, rotation_matrix

DEMO, OBSERVATION = ("rlbench.demo", "Demo"), ("rlbench.backend.observation", "Observation")
_TWO_ARMED = "BimanualObservation"
_OF_TWO_ARMS = [(OBSERVATION[0], name) for name in (_TWO_ARMED, "UnimanualObservation", "UnimanualObservationData")]
"""Classes in the two-arm version of RLBench."""
_PICTURES = ("rgb", "depth", "mask", "point_cloud")
_LOW_DIM = {"gripper_pose": (7,), "gripper_open": (), "joint_velocities": None, "joint_positions": None}
"""Attribute -> shape, where None stands for one number per joint."""
_UNIT_TOLERANCE = 1e-2
_PARTS = {"extrinsics": (4, 4), "intrinsics": (3, 3), "near": (), "far": ()}
"""The parts of a camera's model: name -> shape."""


class _Attributes:
    """Stands in for one of RLBench's classes. It only holds attributes."""


class _Demo(_Attributes):
    """Pickled as RLBench's Demo."""


class _Observation(_Attributes):
    """Pickled as RLBench's Observation."""


def read_low_dim(path: Path) -> tuple[list[Frame], int | None]:
    """The frames of an episode, without pictures, and the seed of its scene, or None if the seed is unknown.

    Raises:
        UserError: the file is missing or damaged, names another class, or does not hold a demonstration.
    """
    # Each file gets its own classes, so that class attributes that one file sets cannot affect another.
    classes = {name: type(name[1], (_Attributes,), {}) for name in (DEMO, OBSERVATION, *_OF_TWO_ARMS)}
    loaded = safe_pickle.load(path, {**safe_pickle.NUMPY, **classes})
    found = getattr(loaded, "_observations", loaded)
    kind, two_armed = classes[OBSERVATION], classes[OBSERVATION[0], _TWO_ARMED]
    if isinstance(found, list) and any(isinstance(o, two_armed) for o in found):
        raise expected(f"File {path}", "a demonstration by one arm (two are not supported)", _TWO_ARMED)
    if not isinstance(found, list) or not found or not all(isinstance(o, kind) for o in found):
        raise expected(f"File {path}", "one demonstration of RLBench with at least one frame", type(loaded).__name__)
    frames = [frame_of(o, f"Frame {number} of {path}") for number, o in enumerate(found)]
    return frames, _seed(getattr(loaded, "random_seed", None))


def _seed(state: Any) -> int | None:
    """The seed of the random generator whose state RLBench saved; None if numbers had already been drawn from it."""
    try:
        first = int(state[1][0])
        return first if np.array_equal(state[1], _generator_state(first)[1]) else None
    except (TypeError, IndexError, KeyError, ValueError):
        return None


def _generator_state(seed: int) -> Any:
    """The value of `numpy.random.get_state()` after `numpy.random.seed(seed)`."""
    return np.random.RandomState(seed).get_state()


def frame_of(observation: Any, where: str) -> Frame:
    """Convert one of RLBench's observations to a frame without pictures. where: its name in errors.

    Raises:
        UserError: an attribute is missing or of another shape, or a value is not finite or not allowed.
    """
    named = {name: getattr(observation, name, None) for name in _LOW_DIM}
    pose, gripper, velocities, positions = (_numbers(v, _LOW_DIM[name], name, where) for name, v in named.items())
    length = float(np.linalg.norm(pose[3:]))
    if abs(length - 1) > _UNIT_TOLERANCE:
        raise expected(where, "with a unit quaternion in gripper_pose", f"one of length {length:g}")
    return Frame(pose, float(gripper), velocities, positions, _cameras(observation, where))


def _numbers(found: Any, shape: tuple[int, ...] | None, name: str, where: str) -> FloatArray:
    """Check that `found` holds finite numbers of a shape (None: one per joint), and return them as float64.

    A single number may be in an array of one element.
    """
    try:
        array = np.array(found, np.float64)
    except (TypeError, ValueError) as error:
        raise expected(where, f"with numbers in {name}", type(found).__name__) from error
    array = array.reshape(()) if shape == () and array.size == 1 else array
    wanted = "(J,)" if shape is None else str(shape)
    if array.shape != shape and (shape is not None or array.ndim != 1):
        raise expected(where, f"with {name} of shape {wanted}", "none" if found is None else array.shape)
    if not (np.abs(array) <= np.finfo(np.float32).max).all():  # caches store float32
        raise expected(where, f"with finite numbers in {name}", array.tolist())
    return array


def _cameras(observation: Any, where: str) -> dict[str, CameraModel]:
    """The camera models. Versions of RLBench before 1.1.0 saved none."""
    misc = getattr(observation, "misc", None)
    misc = misc if isinstance(misc, dict) else {}
    found = {}
    for name in CAMERAS:
        values = [misc.get(f"{name}_camera_{part}") for part in _PARTS]
        if all(value is not None for value in values):
            named = zip(values, _PARTS.items(), strict=True)
            extrinsics, intrinsics, near, far = (
                _numbers(value, shape, f"{name}_camera_{part}", where) for value, (part, shape) in named
            )
            if not near < far or not np.diag(intrinsics).all():
                facts = f"near {near:g}, far {far:g}, diagonal {np.diag(intrinsics).tolist()}"
                raise expected(where, f"with near < far and non-zero focal lengths for camera {name}", facts)
            found[name] = CameraModel(extrinsics, intrinsics, float(near), float(far))
    return found


def write_low_dim(demo: Demo, path: Path) -> None:
    """Write a file that `read_low_dim` reads, and that RLBench itself can unpickle with NumPy 1 or 2."""
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
    """The matrix (4, 4) of a pose (7,)."""
    matrix = np.eye(4)
    matrix[:3, 3], matrix[:3, :3] = pose[:3], rotation_matrix(pose[3:] / np.linalg.norm(pose[3:]))
    return matrix


class _Pickler(pickle._Pickler):
    """Names RLBench's classes in place of ours, and NumPy's modules as NumPy 1 does, which NumPy 2 also accepts."""

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
