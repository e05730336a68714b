"""Casts rays into a scene to find the geom, the depth and the surface normal at each pixel, without OpenGL."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray
from mtrl.envs.keyframes.cameras import camera_model
from mtrl.envs.keyframes.scene import FAR
from mtrl.envs.keyframes.world import World
from mtrl.envs.simulator import mujoco

Local = NDArray[np.float64]


class Seen(NamedTuple):
    """What the pixels of a camera see."""

    geom: NDArray[np.int32]
    """(H, W): the geom's id; −1 where there is none up to `scene.FAR`"""
    depth: FloatArray
    """(H, W): metres along the optical axis; 0 where there is nothing"""
    normal: FloatArray
    """(H, W, 3): unit vectors in the camera's axes (right, up, towards the camera); 0 where there is nothing"""


def look(world: World, camera: str, size: int) -> Seen:
    """What each pixel's ray meets first, up to the depth `scene.FAR`, in a picture of size × size pixels."""
    model = camera_model(world, camera, size)
    v, u = np.mgrid[:size, :size]
    focal, centre = model.intrinsics[0, 0], model.intrinsics[0, 2]
    local = np.stack([(u - centre) / focal, (v - centre) / focal, np.ones_like(u, float)], -1).reshape(-1, 3)
    lengths = np.linalg.norm(local, axis=1)
    rays = np.ascontiguousarray((local @ model.extrinsics[:3, :3].T) / lengths[:, None])
    origin = model.extrinsics[:3, 3].copy()
    geom, distance = np.zeros(len(rays), np.int32), np.zeros(len(rays))
    mujoco.mj_multiRay(
        world.model, world.data, origin, rays.reshape(-1), None, 1, -1, geom, distance, len(rays), 2 * FAR
    )
    depth = distance / lengths
    nothing = (geom < 0) | (depth > FAR)
    geom[nothing], depth[nothing] = -1, 0
    normal = _normals(world, geom, origin + distance[:, None] * rays)
    normal *= np.where((normal * rays).sum(1) > 0, -1.0, 1.0)[:, None]
    normal = normal @ world.data.camera(camera).xmat.reshape(3, 3)
    return Seen(geom.reshape(size, size), depth.reshape(size, size), normal.reshape(size, size, 3))


def _normals(world: World, geom: NDArray[np.int32], points: Local) -> Local:
    """The unit normals (n, 3), in world axes, at points (n, 3) on geoms (n,); 0 where geom is −1."""
    normals = np.zeros_like(points)
    for number in np.unique(geom[geom >= 0]):
        rows = geom == number
        axes = world.data.geom_xmat[number].reshape(3, 3)
        local = (points[rows] - world.data.geom_xpos[number]) @ axes
        found = _OF_SHAPES[int(world.model.geom_type[number])](local, world.model.geom_size[number])
        normals[rows] = (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)) @ axes.T
    return normals


def _plane(local: Local, size: Local) -> Local:
    return np.broadcast_to([0.0, 0.0, 1.0], local.shape)


def _sphere(local: Local, size: Local) -> Local:
    return local


def _box(local: Local, size: Local) -> Local:
    """The normal of the nearest face."""
    nearest = np.abs(np.abs(local) - size).argmin(1)[:, None] == np.arange(3)
    return nearest * local


def _capsule(local: Local, size: Local) -> Local:
    """The direction away from the nearest point on the axis."""
    return local - np.array([0.0, 0.0, 1.0]) * local[:, 2:].clip(-size[1], size[1])


def _cylinder(local: Local, size: Local) -> Local:
    """The normal of the flat end or of the round side, whichever is nearer."""
    flat = np.abs(np.abs(local[:, 2]) - size[1]) < np.abs(np.hypot(local[:, 0], local[:, 1]) - size[0])
    return np.where(flat[:, None], local * [0.0, 0.0, 1.0], local * [1.0, 1.0, 0.0])


_OF_SHAPES: dict[int, Any] = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): _plane,
    int(mujoco.mjtGeom.mjGEOM_SPHERE): _sphere,
    int(mujoco.mjtGeom.mjGEOM_BOX): _box,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): _capsule,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): _cylinder,
}
"""Type of geom -> a function of points (n, 3) in the geom's axes and its sizes (3,). It returns normals (n, 3) of any
length."""
