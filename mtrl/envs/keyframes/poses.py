"""Gripper poses: unit quaternions xyzw, and the two families of orientations that the tasks use.

The gripper's frame is RLBench's: z points out of the fingers, which move along y.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.data.demos import rotation_matrix

LEAN = np.deg2rad(8.0)
"""Radians by which a gripper that points down leans back. If it pointed straight down, w would be 0 at every yaw, and
noise would decide the sign that makes w ≥ 0. RLBench's arm leans by 14° at the start of an episode."""


class Pose(NamedTuple):
    """The pose of a gripper or an object."""

    position: FloatArray
    """(3,): metres."""
    quaternion: FloatArray
    """(4,): xyzw."""

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> FloatArray:
        return np.concatenate(self).astype(dtype or np.float64)

    def raised(self, height: float) -> Pose:
        """The same orientation, `height` metres higher."""
        return Pose(self.position + np.array([0.0, 0.0, height]), self.quaternion)

    def point(self, x: float, y: float, z: float) -> FloatArray:
        """The world coordinates (3,) of a point with coordinates x, y, z in this pose's frame."""
        return self.position + rotation_matrix(self.quaternion) @ np.array([x, y, z])

    def local(self, position: FloatArray) -> FloatArray:
        """The coordinates (3,), in this pose's frame, of a point (3,) in the world."""
        return rotation_matrix(self.quaternion).T @ (position - self.position)


def product(p: FloatArray, q: FloatArray) -> FloatArray:
    """The rotation q followed by p."""
    vector = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
    return np.append(vector, p[3] * q[3] - p[:3] @ q[:3])


def about_z(angle: float) -> FloatArray:
    """The rotation about z by `angle`, in radians."""
    return np.array([0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)])


def pitched(yaw: float, pitch: float) -> FloatArray:
    """The rotation about y by `pitch`, then about z by `yaw` (radians). An unrotated gripper points along +z."""
    return product(about_z(yaw), np.array([0.0, np.sin(pitch / 2), 0.0, np.cos(pitch / 2)]))


def down(yaw: float = 0.0) -> FloatArray:
    """The rotation of a gripper that points down, leaning by `LEAN`. At yaw 0, the fingers open along the world's y."""
    return pitched(yaw, np.pi - LEAN)


def level(yaw: float = 0.0) -> FloatArray:
    """The rotation of a gripper that is level. At yaw 0, it points along x, away from the robot, and opens along y."""
    return pitched(yaw, np.pi / 2)


def rotation_vector(quaternion: FloatArray) -> FloatArray:
    """The rotation vector (3,) of a unit quaternion: the axis times the angle, in radians in [0, π]."""
    x, y, z, w = quaternion if quaternion[3] >= 0 else -quaternion
    sine = np.sqrt(x * x + y * y + z * z)
    scale = 2 * np.arctan2(sine, w) / sine if sine > 1e-12 else 2.0
    return scale * np.array([x, y, z])


def angle_between(p: FloatArray, q: FloatArray) -> float:
    """The angle between two rotations, in radians in [0, π]."""
    return 2 * float(np.arccos(min(1.0, abs(float(p @ q)))))


def slerp(p: FloatArray, q: FloatArray, fraction: float) -> FloatArray:
    """The rotation (4,) on the shorter arc from p (fraction 0) to q (fraction 1)."""
    cosine = float(p @ q)
    q, cosine = (q, cosine) if cosine >= 0 else (-q, -cosine)
    angle = np.arccos(min(1.0, cosine))
    if angle < 1e-6:
        return q
    return (np.sin((1 - fraction) * angle) * p + np.sin(fraction * angle) * q) / np.sin(angle)


def yaw_of(quaternion: FloatArray) -> float:
    """The angle, in radians, by which an upright body is turned about the vertical."""
    rotation = rotation_matrix(quaternion)
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))
