"""What the cameras of a scene see: colours, depth, and the pinhole models that turn depth into points."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.data.demos import CameraModel, Frame, Image
from mtrl.envs.keyframes.scene import FAR, NEAR
from mtrl.envs.keyframes.world import World
from mtrl.envs.offscreen import OffscreenContext
from mtrl.envs.simulator import mujoco

_MIRROR = np.diag([-1.0, 1.0, -1.0])
"""From RLBench's camera axes (left, up, forward) to MuJoCo's (right, up, backward)."""
_MOST_GEOMS = 500


def camera_model(world: World, name: str, size: int) -> CameraModel:
    """The current model of one camera, for pictures of size × size pixels.

    As in RLBench, the focal lengths are negative, and points are computed from integer pixel indices. Since a pixel's
    ray goes through its middle, the principal point is at (size − 1) / 2.
    """
    camera = world.data.camera(name)
    extrinsics = np.eye(4)
    extrinsics[:3, :3] = camera.xmat.reshape(3, 3) @ _MIRROR
    extrinsics[:3, 3] = camera.xpos
    focal = size / 2 / np.tan(np.deg2rad(float(world.model.camera(name).fovy[0])) / 2)
    centre = (size - 1) / 2
    intrinsics = np.array([[-focal, 0, centre], [0, -focal, centre], [0, 0, 1]])
    return CameraModel(extrinsics, intrinsics, NEAR, FAR)


def observe(world: World, names: Sequence[str], size: int, renderer: Renderer | None = None) -> Frame:
    """The gripper's state, the models of the named cameras and, if there is a renderer, their pictures."""
    return Frame(
        gripper_pose=np.asarray(world.gripper),
        gripper_open=float(world.gripper_open),
        joint_velocities=world.velocities,
        joint_positions=world.joints,
        cameras={name: camera_model(world, name, size) for name in names},
        images={} if renderer is None else {name: renderer.image(world, name) for name in names},
    )


class Renderer:
    """Draws square pictures of worlds, without shadows, reflections or multisampling.

    Use it in one thread only. The graphics context is freed by `close`, at the end of a `with` block, or when the
    renderer is deleted.
    """

    def __init__(self, size: int) -> None:
        """size: pixels along an edge, at most `scene.PIXELS`.

        Raises:
            RenderingUnavailable: offscreen OpenGL is not available.
        """
        self.size = size
        self._graphics = OffscreenContext(size, size)
        self._area = mujoco.MjrRect(0, 0, size, size)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = mujoco.MjvOption()
        self._contexts: dict[int, tuple[Any, Any]] = {}
        self._finalizer = weakref.finalize(self, _free, self._graphics, self._contexts)
        # mujoco's own exit hook, which ends EGL, was registered before this one, and so runs after it.
        self._finalizer.atexit = False
        atexit.register(self._finalizer)
        self._rgb = np.empty((size, size, 3), np.uint8)
        self._depth = np.empty((size, size), np.float32)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._finalizer()
        atexit.unregister(self._finalizer)

    def image(self, world: World, camera: str) -> Image:
        """What the camera sees: colours, and depth in metres along the optical axis. The first row is at the top."""
        with self._graphics:
            context, scene = self._prepared(world.model)
            # Since the last call, something may have been drawn to another context.
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
            self._camera.fixedcamid = world.model.camera(camera).id
            everything = mujoco.mjtCatBit.mjCAT_ALL.value
            mujoco.mjv_updateScene(world.model, world.data, self._options, None, self._camera, everything, scene)
            mujoco.mjr_render(self._area, scene, context)
            mujoco.mjr_readPixels(self._rgb, self._depth, self._area, context)
        return Image(self._rgb[::-1].copy(), _metres(self._depth[::-1]))

    def _prepared(self, model: Any) -> tuple[Any, Any]:
        """The context and the scene of a model. Ids stay unique, since `compile_scene` keeps all models alive."""
        if id(model) not in self._contexts:
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            scene = mujoco.MjvScene(model, maxgeom=_MOST_GEOMS)
            scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            self._contexts[id(model)] = context, scene
        return self._contexts[id(model)]


def _free(graphics: OffscreenContext, contexts: dict[int, tuple[Any, Any]]) -> None:
    with graphics:
        for context, _ in contexts.values():
            context.free()
    contexts.clear()
    graphics.free()


def _metres(buffer: FloatArray) -> FloatArray:
    """Depth buffer (H, W) with values in [0, 1] -> (H, W) float32: metres along the optical axis."""
    return np.minimum(NEAR / (1 - buffer * np.float32(1 - NEAR / FAR)), np.float32(FAR))
