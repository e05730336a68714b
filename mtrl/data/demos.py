"""Demonstrations of keyframe manipulation: what a robot did frame by frame, and which frames are keyframes.

The readers of RLBench's folders, the caches, the suites and the simulators pass on objects of these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.types import FloatArray

CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
"""RLBench's five cameras, by its names."""
POLICY_CAMERAS = ("left_shoulder", "right_shoulder", "wrist")
"""The three cameras whose images the Auto-λ paper's policy takes."""

STOPPED = 0.1
"""rad/s (m/s for the position of a gripper without an arm): the robot has stopped if all joints are slower."""
_REST = 4
"""Frames after a stop in which no further stop counts."""


def check_cameras(names: Sequence[str]) -> None:
    """Raise UserError unless the option `benchmark.cameras` has one or more distinct names from `CAMERAS`."""
    distinct = len(set(names)) == len(names) > 0 and set(names) <= set(CAMERAS)
    check(distinct, "benchmark.cameras", f"distinct names of {', '.join(CAMERAS)}", list(names))


@dataclass
class CameraModel:
    """A pinhole camera as RLBench describes it."""

    extrinsics: FloatArray
    """(4, 4): camera to world, in metres."""
    intrinsics: FloatArray
    """(3, 3), in pixels. Focal lengths may be negative."""
    near: float
    """Metres: the depth that is packed as the smallest value (see `data.depth.pack_depth`)."""
    far: float
    """Metres: the depth that is packed as the largest value."""


@dataclass
class Image:
    """What one camera saw at one frame."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    depth: FloatArray | None = None
    """(H, W): metres along the optical axis."""
    mask: NDArray[np.integer] | None = None
    """(H, W): object handles."""


@dataclass
class Frame:
    """One observation of a demonstration or of an episode."""

    gripper_pose: FloatArray
    """(7,): xyz in metres, unit quaternion xyzw."""
    gripper_open: float
    """1 open, 0 closed."""
    joint_velocities: FloatArray
    """(J,): rad/s. Of a gripper without an arm, (6,): m/s, then rad/s (see `World.velocities`)."""
    joint_positions: FloatArray
    """(J,): rad. Of a gripper without an arm, (6,): metres, then a rotation vector in radians (see `World.joints`)."""
    cameras: dict[str, CameraModel] = field(default_factory=dict)
    """Camera -> its model. A moving camera has a different model in each frame."""
    images: dict[str, Image] = field(default_factory=dict)
    """Camera -> its image. Frames at which no policy decides (see `decision_frames`) may have none."""


@dataclass
class Demo:
    """One successful episode of an expert."""

    task: str
    frames: list[Frame]
    variation: int = 0
    descriptions: list[str] = field(default_factory=list)
    """Descriptions of the task in words, if any."""
    seed: int | None = None
    """RLBench's seed of the scene, or the number of the scene in a keyframe task; None if not known."""

    def __len__(self) -> int:
        return len(self.frames)


def canonical_quaternion(quaternion: FloatArray) -> FloatArray:
    """Normalise quaternions (.., 4) xyzw, and choose whichever of q and −q has w ≥ 0."""
    quaternion = np.asarray(quaternion)
    unit = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return np.where(unit[..., 3:] < 0, -unit, unit)


def rotation_matrix(quaternion: FloatArray) -> FloatArray:
    """The rotation matrix (3, 3) of a unit quaternion xyzw."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def keyframes(demo: Demo | Sequence[Frame]) -> list[int]:
    """The indices of the keyframes by ARM's rule (James and Davison 2022). Frames 0 and 1 differ, as described below.

    The last frame is a keyframe, and so is each frame at which the gripper has opened or closed, or the arm has
    stopped. The arm stops at a frame if every joint is slower than `STOPPED`, the gripper is unchanged from two frames
    before to one frame after, the frame is not the second-last, and there was no other stop in the 4 frames before. If
    the last two keyframes are adjacent, only the last one is kept. Frame 0 is never a keyframe.

    At frames 0 and 1, the gripper is compared with that of frame 0 in place of frames that do not exist. ARM's code
    compares it with the last frames of the episode there, as its negative indices wrap round.
    """
    frames = demo.frames if isinstance(demo, Demo) else demo
    found: list[int] = []
    rest = 0
    for i, frame in enumerate(frames):
        stopped = rest <= 0 and _stands_still(frames, i)
        rest = _REST if stopped else rest - 1
        changed = i > 0 and frame.gripper_open != frames[i - 1].gripper_open
        if i > 0 and (changed or stopped or i == len(frames) - 1):
            found.append(i)
    if len(found) > 1 and found[-1] - found[-2] == 1:
        del found[-2]
    return found


def _stands_still(frames: Sequence[Frame], i: int) -> bool:
    if i >= len(frames) - 2:
        return False
    gripper = {frames[max(k, 0)].gripper_open for k in range(i - 2, i + 2)}
    return len(gripper) == 1 and bool(np.all(np.abs(frames[i].joint_velocities) < STOPPED))


def decision_frames(keyframes: Sequence[int]) -> list[int]:
    """The frames at which a keyframe policy decides: frame 0 and all keyframes but the last."""
    return [0, *keyframes[:-1]] if keyframes else []
