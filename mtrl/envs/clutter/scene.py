"""Cluttered tables in MuJoCo with the keyframe tasks' gripper: placing objects, drawing them in two domains, grasping.

Both domains have the same objects and the same physics. The target domain stands in for a real camera: its field of
view, table, light and colours differ from the source's, objects have textures, and pictures have blur and noise. Its
pictures are rendered, too: no real robot was used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray
from mtrl.envs.keyframes.cameras import Renderer, camera_model
from mtrl.envs.keyframes.poses import Pose, down
from mtrl.envs.keyframes.rays import look
from mtrl.envs.keyframes.scene import TABLE, compile_scene
from mtrl.envs.keyframes.tasks.base import Region, boxes, scatter
from mtrl.envs.keyframes.world import World

DOMAINS = ("source", "target")
OBJECTS = ("long", "block", "can", "corner", "tee", "plate")
REACH = np.array([[0.16, -0.16, -np.pi / 2], [0.44, 0.16, np.pi / 2]])
"""(2, 3): the smallest and the largest command. A command is x and y in metres, and the turn about the vertical in
radians. Half a turn gives nearly the same grasp: the gripper then leans (`poses.LEAN`) to the other side."""
HALF_HEIGHT = 0.018
"""Half the height of every object, in metres."""
GRASP_HEIGHT = TABLE + HALF_HEIGHT
"""Height of the gripper's frame when it closes, in metres."""
_ABOVE, _LIFT, _LIFTED = 0.08, 0.1, 0.05
"""Metres: how far above the grasp the gripper starts, how far above it ends, and how high above the table an object's
middle must be for the object to count as lifted."""
_CAMERA = '<camera name="view" pos="0.72 0 1.42" xyaxes="0 1 0 -0.844 0 0.537" fovy="{}"/>'


def _boxes(*rows: tuple[float, float, float, float]) -> str:
    """MJCF of an object of 60 g made of boxes, each given by the x and y of its centre and of its half extents."""
    return boxes(*((x, y, 0, a, b, HALF_HEIGHT) for x, y, a, b in rows), mass=0.06 / len(rows), colour="1 1 1")


_SHAPES = {
    "long": _boxes((0, 0, 0.058, 0.013)),
    "block": _boxes((0, 0, 0.03, 0.022)),
    "can": f'<geom type="cylinder" size="0.028 {HALF_HEIGHT}" mass="0.06"/>',
    "corner": _boxes((0, 0, 0.046, 0.011), (-0.035, 0.04, 0.011, 0.029)),
    "tee": _boxes((0, 0, 0.046, 0.011), (0, 0.036, 0.011, 0.025)),
    "plate": _boxes((0, 0, 0.054, 0.03)),
}
_NOISE, _BLUR = 12.0, 0.25
"""The target camera's noise, as a standard deviation on the scale from 0 to 255, and the joint weight of the four
neighbours in a blurred pixel."""


class View(NamedTuple):
    """A square picture of a table."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    objects: NDArray[np.int8]
    """(H, W): the index in `OBJECTS` of the object that each pixel shows, −1 for none."""


class Clutter:
    """The scenes of one domain, one at a time. The same key always gives the same scene.

    All instances for a domain share one model, so `begin` also changes the colours that the others show.
    """

    def __init__(self, domain: str, size: int) -> None:
        """size: pixels along each edge of a picture."""
        self.domain, self.size = domain, size
        camera = _CAMERA.format({"source": 32, "target": 40}[domain])
        bodies = "".join(f'<body name="{name}"><freejoint/>{shape}</body>' for name, shape in _SHAPES.items())
        self.world = World(compile_scene(f"clutter_{domain}", camera + bodies))
        model = self.world.model
        self.world.settle(0)
        seen_by = camera_model(self.world, "view", size)
        self.projection = seen_by.intrinsics @ np.linalg.inv(seen_by.extrinsics)[:3]
        """(3, 4): maps homogeneous world points to (column, row, 1) of a picture, up to scale."""
        numbers = {model.body(name).id: number for number, name in enumerate(OBJECTS)}
        self._object_of_geom = np.array([numbers.get(int(body), -1) for body in model.geom_bodyid], np.int8)

    def begin(self, *key: int) -> None:
        """Set up the scene of a key: draw places and colours, and let the objects come to rest. Call this first."""
        rng = np.random.default_rng((*key, DOMAINS.index(self.domain)))
        self.world.reset()
        regions = [Region((0.19, 0.41), (-0.13, 0.13), 0.036)] * len(OBJECTS)
        for name, spot in zip(OBJECTS, scatter(rng, *regions), strict=True):
            self.world.place(name, (*spot, TABLE + HALF_HEIGHT), rng.uniform(-np.pi, np.pi))
        self.world.show_gripper(np.array([-0.1, -0.5, 1.4]))  # out of sight
        self.world.settle()
        self._start = self.world.data.qpos.copy()
        self.places = np.array([self.world.pose(name).position[:2] for name in OBJECTS])
        """(objects, 2): the x and y of each object, in metres."""
        self._rng = rng
        self._paint(rng)

    def _paint(self, rng: np.random.Generator) -> None:
        """Draw the colours: bright ones in the source; dark ones, a brown table and warm light in the target."""
        model, target = self.world.model, self.domain == "target"
        low, high = (0.05, 0.55) if target else (0.1, 1.0)
        for number in range(len(OBJECTS)):
            model.geom_rgba[self._object_of_geom == number, :3] = rng.uniform(low, high, 3)
        table = np.array([0.45, 0.3, 0.2]) if target else np.array([0.78, 0.74, 0.68])
        model.geom("table").rgba[:3] = table * rng.uniform(0.85, 1.15)
        model.light_diffuse[:] = [0.75, 0.65, 0.45] if target else 0.4
        model.light_dir[:] = [-0.7, 0.5, -0.5] if target else [0.3, 0.2, -1]
        model.vis.headlight.diffuse[:] = 0.1 if target else 0.35

    def view(self, renderer: Renderer) -> View:
        """What the domain's camera sees. In the target domain, each call draws new noise and shifts the stripes."""
        objects = look(self.world, "view", self.size).geom
        rgb = renderer.image(self.world, "view").rgb
        if self.domain == "target":
            rgb = self._through_camera(rgb, objects)
        return View(rgb, np.where(objects < 0, -1, self._object_of_geom[objects]).astype(np.int8))

    def _through_camera(self, rgb: NDArray[np.uint8], shapes: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Add dots on objects, stripes elsewhere, blur and noise. shapes (H, W): each pixel's geom, −1 for none."""
        rows, columns = np.mgrid[: self.size, : self.size]
        wood = 0.8 + 0.2 * np.sin(0.9 * columns + 2 * np.sin(0.07 * rows) + self._rng.uniform(0, 6))
        dots = np.where((rows // 2 + columns // 2) % 2, 0.75, 1.1)
        there = shapes >= 0
        on_object = there & (self._object_of_geom[shapes] >= 0)
        pixels = rgb * np.where(on_object, dots, wood)[..., None]
        around = sum(np.roll(pixels, shift, axis) for shift in (-1, 1) for axis in (0, 1))
        pixels = (1 - _BLUR) * pixels + _BLUR / 4 * around
        return (pixels + self._rng.normal(0, _NOISE, pixels.shape)).clip(0, 255).astype(np.uint8)

    def grasp(self, command: FloatArray) -> int:
        """Grasp at a command (3,) in the scene as it began. Returns the index of the lifted object, −1 for none."""
        x, y, turn = np.clip(command, *REACH)
        pose = Pose(np.array([x, y, GRASP_HEIGHT]), down(float(turn)))
        self.world.reset()
        self.world.data.qpos[:] = self._start
        self.world.show_gripper(pose.raised(_ABOVE).position, pose.quaternion)
        self.world.act(pose, False)
        self.world.act(pose.raised(_LIFT), False)
        heights = np.array([self.world.pose(name).position[2] for name in OBJECTS]) - TABLE
        return int(heights.argmax()) if heights.max() > _LIFTED else -1
