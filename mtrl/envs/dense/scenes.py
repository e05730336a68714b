"""Classes, depth and normals for each pixel of the ten keyframe tasks' scenes in MuJoCo, seen from random places.

The pictures are made on the first use, which takes minutes. A scene has a task's objects, the gripper somewhere
above them, the table and the floor. OpenGL draws the colours; classes, exact depth and exact normals come from rays.
Anything at a depth of more than 5 m has no class, depth or normal. Test pictures show scenes that no training picture
shows, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import option
from mtrl.data.dense import Picture, Pictures
from mtrl.data.pixel_cache import Arrays, Layout, made_once
from mtrl.envs.dense.base import DenseConfig, DenseSuite
from mtrl.envs.keyframes.cameras import Renderer
from mtrl.envs.keyframes.episode import STREAMS, Episode
from mtrl.envs.keyframes.rays import look
from mtrl.envs.keyframes.scene import AUDIENCE, PIXELS
from mtrl.envs.keyframes.tasks import TASKS
from mtrl.envs.keyframes.world import World
from mtrl.monitoring.progress import counted, say

CLASSES = {
    "floor": ["floor"],
    "table": ["table"],
    "gripper": ["hand", "left_finger", "right_finger"],
    "ball": ["ball", "reach_target.other", "reach_target.another"],
    "button": ["button", "cap"],
    "block": ["block", "pick_and_lift.other", "pick_and_lift.another"],
    "cup": ["cup", "pick_up_cup.other"],
    "knife": ["knife"],
    "board": ["board", "field"],
    "holder": ["holder", "stand", "rack"],
    "safe": ["safe", "door"],
    "money": ["money"],
    "umbrella": ["umbrella"],
    "bottle": ["bottle"],
}
"""Class -> its bodies, or geoms of the world. `<task>.<body>` names a body of that task only."""
_FIRST_OBJECT = list(CLASSES).index("ball")
TARGETS = {"segmentation": ("segmentation", len(CLASSES)), "depth": ("depth", 1), "normals": ("normals", 3)}
VERSION = 1
"""The version of the pictures. They are drawn again when it changes."""


@dataclass
class Config(DenseConfig):
    defaults: ClassVar[Mapping[str, str]] = {
        "network.depth": "18",
        "network.scale": "0.25",
        "network.stem_stride": "2",
        "network.head_width": "32",
        "network.rates": "[2,4,6]",
        "network.dropout": "0",
        "agent.batch_size": "16",
        "agent.learning_rate": "0.05",
        "steps": "16000",
    }
    """Sizes that two CPU cores can train."""
    kind: str = "scenes"
    image_size: int = option(64, f"in 16..{PIXELS}")
    """Pixels along a side of the square pictures."""
    train_scenes: int = option(2000, "a positive integer")
    """The number of training pictures: one of each scene, with the ten tasks in turn."""
    test_scenes: int = option(500, "a positive integer")
    """The number of test pictures: one of each scene."""


class ScenePictures:
    """Pictures in memory-mapped arrays."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays["image"])

    def __getitem__(self, index: int) -> Picture:
        def channels_first(name: str) -> Tensor:
            return torch.from_numpy(self._arrays[name][index].astype(np.float32)).movedim(-1, 0)

        return Picture(channels_first("image") / 255, [channels_first(name) for name in TARGETS])


def pictures(root: Path, size: int, count: int, seed: int, stream: str) -> ScenePictures:
    """The pictures of a stream of scenes (one of `episode.STREAMS`), made on the first call.

    Raises:
        RenderingUnavailable: the pictures have not been made yet, and offscreen OpenGL is not available.
        UserError: a file is damaged.
    """
    grid = (count, size, size)
    layout: Layout = {
        "image": (np.uint8, (*grid, 3)),
        "segmentation": (np.int8, (*grid, 1)),
        "depth": (np.float32, (*grid, 1)),
        "normals": (np.float16, (*grid, 3)),
    }
    folder = root / "scenes" / f"{stream}-{count}-{size}px-seed{seed}-v{VERSION}"

    def fill(arrays: Arrays) -> None:
        say(f"Drawing {count} scenes into {folder}.")
        for number, found in zip(counted(range(count), "scenes"), draw(size, seed, stream), strict=False):
            for name, values in found.items():
                arrays[name][number] = values.reshape(size, size, -1)

    return ScenePictures(made_once(folder, layout, fill))


def draw(size: int, seed: int, stream: str) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield pictures without end, with the tasks in turn.

    A picture is {image: (H, W, 3) uint8, segmentation: (H, W), depth: (H, W) in metres, normals: (H, W, 3)}. Unknown
    classes are −1, unknown depths and normals 0.
    """
    episodes = [Episode(task, seed, stream) for task in TASKS]
    tables = [_classes(task, episode.world) for task, episode in zip(TASKS, episodes, strict=True)]
    number = 0
    with Renderer(size) as renderer:
        while True:
            for task, (episode, table) in enumerate(zip(episodes, tables, strict=True)):
                episode.begin(number)
                rng = np.random.default_rng((seed, STREAMS.index(stream), task, number))
                _arrange(episode.world, table, rng)
                seen = look(episode.world, AUDIENCE, size)
                image = renderer.image(episode.world, AUDIENCE).rgb
                labels = np.where(seen.geom < 0, -1, table[seen.geom])
                yield {"image": image, "segmentation": labels, "depth": seen.depth, "normals": seen.normal}
            number += 1


def _classes(task: str, world: World) -> NDArray[np.int64]:
    """The class of each geom in a scene."""
    names = {name: number for number, bodies in enumerate(CLASSES.values()) for name in bodies}
    model = world.model
    found = []
    for geom in range(model.ngeom):
        body = model.body(model.geom_bodyid[geom]).name
        name = model.geom(geom).name if body == "world" else body
        found.append(names.get(f"{task}.{name}", names.get(name)))
    return np.array(found, dtype=np.int64)


def _arrange(world: World, table: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Move the gripper above the objects, and the camera to a random place that faces one of them."""
    world.show_gripper(np.array([rng.uniform(0.1, 0.5), rng.uniform(-0.3, 0.3), rng.uniform(1.25, 1.5)]))
    chosen = rng.choice(np.unique(table[table >= _FIRST_OBJECT]))
    target = world.data.geom_xpos[rng.choice(np.flatnonzero(table == chosen))] + rng.uniform(-0.1, 0.1, 3)
    azimuth, elevation, distance = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(25, 70)), rng.uniform(0.35, 0.8)
    flat = np.cos(elevation)
    back = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    world.place_camera(AUDIENCE, target + distance * back, target)


def build(config: Config) -> DenseSuite:
    root, size, seed = Path(config.root), config.image_size, config.split_seed
    counts: dict[str, int] = dict(zip(STREAMS, (config.train_scenes, config.test_scenes), strict=True))

    def read() -> tuple[Pictures, Pictures]:
        train, test = (pictures(root, size, counts[stream], seed, stream) for stream in STREAMS)
        return train, test

    facts = {"scenes": {**counts, "version": VERSION}, "mujoco": version("mujoco")}
    return DenseSuite(config, TARGETS, (3, size, size), read, facts)
