"""A keyframe suite without physics: two coloured discs on a table; task t is to go above disc t, then down to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.specs import KeyframeSpec
from mtrl.core.suite import Suite, SuiteConfig
from mtrl.core.types import FloatArray
from mtrl.data.demo_cache import CacheWriter
from mtrl.data.demos import CameraModel, Demo, Frame, Image
from mtrl.data.keyframe_envs import KeyframeStep

TASKS = ("red", "blue")
COLOURS = np.array([[220, 30, 30], [30, 60, 230]], np.uint8)
CAMERAS = ("left_shoulder", "front")
SIZE = 16
RADIUS, REACH, HEIGHT = 0.08, 0.05, 0.15
DOWN = np.array([1.0, 0.0, 0.0, 0.0])


def camera(name: str, size: int = SIZE) -> CameraModel:
    """Above the table, looking straight down, with RLBench's negative focal lengths; one a little to the side."""
    extrinsics = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 1.0], [0, 0, 0, 1]], np.float64)
    extrinsics[0, 3] = 0.0 if name == "front" else 0.1
    intrinsics = np.array([[-size, 0, size / 2], [0, -size, size / 2], [0, 0, 1]], np.float64)
    return CameraModel(extrinsics, intrinsics, 0.01, 2.0)


def picture(discs: FloatArray, model: CameraModel, size: int = SIZE) -> Image:
    """discs (2, 2): xy of the red and of the blue one."""
    v, u = np.mgrid[:size, :size].astype(np.float64)
    rays = np.stack([(u - size / 2) / -size, (v - size / 2) / -size, np.ones_like(u)], -1)
    points = rays @ model.extrinsics[:3, :3].T + model.extrinsics[:3, 3]
    rgb = np.full((size, size, 3), 120, np.uint8)
    for disc, colour in zip(discs, COLOURS, strict=True):
        rgb[np.linalg.norm(points[..., :2] - disc, axis=-1) < RADIUS] = colour
    return Image(rgb, np.ones((size, size), np.float32))


def scene(rng: np.random.Generator) -> FloatArray:
    """Two discs that do not touch, (2, 2)."""
    while True:
        discs = rng.uniform(-0.3, 0.3, (2, 2))
        if np.linalg.norm(discs[0] - discs[1]) > 3 * RADIUS:
            return discs


def frame(discs: FloatArray, xyz: FloatArray, speed: float = 0.0, gripper: float = 1.0, seen: bool = True) -> Frame:
    models = {name: camera(name) for name in CAMERAS}
    images = {name: picture(discs, model) for name, model in models.items()} if seen else {}
    return Frame(np.concatenate([xyz, DOWN]), gripper, np.full(7, speed), np.zeros(7), models, images)


def demo(task: int, rng: np.random.Generator) -> Demo:
    """To 15 cm above the disc, down to it, and closed: keyframes 8 (a stop) and 16 (the gripper and the end)."""
    discs = scene(rng)
    start, target = np.array([0.0, 0.0, 0.5]), np.append(discs[task], 0.02)
    above = target + np.array([0, 0, HEIGHT])
    frames = [frame(discs, start, 1.0)]
    frames += [frame(discs, start + (above - start) * k / 8, float(k < 8), seen=k == 8) for k in range(1, 9)]
    frames += [frame(discs, above + (target - above) * k / 7, 1.0, seen=False) for k in range(1, 8)]
    frames.append(frame(discs, target, 0.0, gripper=0.0, seen=False))
    return Demo(TASKS[task], frames, seed=0)


def write_cache(folder: Path, demos: int = 20, tasks: Sequence[str] = TASKS) -> None:
    for task in tasks:
        rng = np.random.default_rng(TASKS.index(task))
        with CacheWriter(folder, task, CAMERAS, SIZE) as writer:
            for _ in range(demos):
                writer.add(demo(TASKS.index(task), rng))


class ToyCopies:
    """Implements `KeyframeEnvs`."""

    def __init__(self, envs_per_task: int, seed: int) -> None:
        self.num_tasks, self.envs_per_task, self.seed = len(TASKS), envs_per_task, seed

    def reset(self, first: int = 0) -> Sequence[Sequence[Frame]]:
        numbers = range(first, first + self.envs_per_task)
        self.scenes = [[scene(np.random.default_rng([self.seed, 99, t, e])) for e in numbers] for t in range(2)]
        self.done, self.success = (np.zeros((2, self.envs_per_task), bool) for _ in range(2))
        self.actions = 0
        return self._frames(np.array([0.0, 0.0, 0.5]))

    def step(self, action: FloatArray) -> KeyframeStep:
        self.actions += 1
        discs = np.array([[s[t] for s in row] for t, row in enumerate(self.scenes)])
        near = np.linalg.norm(action[..., :2] - discs, axis=-1) < REACH
        low = np.abs(action[..., 2] - 0.02) < REACH
        self.success |= near & low & (action[..., 7] < 0.5) & ~self.done
        self.done |= self.success | (self.actions >= 3)
        return KeyframeStep(self._frames(np.array([0.0, 0.0, 0.3])), self.success.copy(), self.done.copy())

    def close(self) -> None:
        """Nothing is held open."""

    def _frames(self, xyz: FloatArray) -> list[list[Frame]]:
        return [[frame(discs, xyz) for discs in row] for row in self.scenes]


class ToyConfig(SuiteConfig):
    spec_type = KeyframeSpec


class ToySuite(Suite[SuiteConfig, KeyframeSpec]):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        self.config = ToyConfig("discs")
        self.spec = KeyframeSpec(tuple(tasks), CAMERAS, SIZE)

    def make_evaluation_envs(self, seed: int, envs_per_task: int) -> ToyCopies:
        return ToyCopies(envs_per_task, seed)

    def demonstrations(self, seed: int, episodes: int, every_frame: bool = False) -> Iterator[Demo]:
        for task in self.tasks:
            rng = np.random.default_rng([seed, TASKS.index(task)])
            yield from (demo(TASKS.index(task), rng) for _ in range(episodes))

    def description(self) -> dict[str, Any]:
        return {"benchmark": self.name}
