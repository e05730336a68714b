"""Cluttered tables as a benchmark: recorded grasp attempts in two domains, and test tables for new grasps.

The attempts are made on the first use, which takes minutes. The command of an attempt is near a random object. In about
half of the attempts, this object is the wanted one; in the others, the wanted object is random. Training and test
tables differ.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import option, path_option
from mtrl.core.specs import GraspSpec, Spec
from mtrl.core.suite import Suite, SuiteConfig
from mtrl.core.types import FloatArray
from mtrl.data.grasps import crops, labels
from mtrl.data.images import ImageData, channel_statistics, task_images
from mtrl.data.pixel_cache import Arrays, Layout, made_once
from mtrl.envs.clutter.scene import DOMAINS, GRASP_HEIGHT, OBJECTS, REACH, Clutter
from mtrl.envs.keyframes.cameras import Renderer
from mtrl.envs.keyframes.scene import PIXELS
from mtrl.monitoring.progress import counted, say

STREAMS = ("train", "test")
SPREAD = 0.02
"""Standard deviation, in metres, of a command's x and y around the object that it aims at."""
VERSION = 1
"""The version of the attempts. They are made again when it changes."""


@dataclass
class Config(SuiteConfig):
    spec_type: ClassVar[type[Spec]] = GraspSpec
    defaults: ClassVar[Mapping[str, str]] = {
        "network.width": "16",
        "network.depth": "3",
        "network.fc_width": "64",
        "network.fc_depth": "1",
        "steps": "12000",
        "training.final_episodes": "60",
    }
    """Sizes that suit one CPU core."""

    kind: str = "clutter"
    root: str = path_option("data")
    """The folder of the data sets. The attempts are kept in its subfolder `clutter`."""
    image_size: int = option(96, f"in 32..{PIXELS}")
    """Pixels along each edge of a picture."""
    crop_size: int = option(24, "in 8..128")
    """Pixels along each edge of the crop around a command, which shows 16 × 16 cm of the table."""
    train_scenes: int = option(120, "a positive integer")
    """Training tables in each domain."""
    test_scenes: int = option(30, "a positive integer")
    """Test tables in each domain, used by evaluations."""
    attempts: int = option(10, "a positive integer")
    """Attempts to grasp on each table."""
    split_seed: int = option(0, "0 or more")
    """Seed of the tables and the attempts."""


class ClutterSuite(Suite[Config, GraspSpec]):
    """Recorded attempts to grasp in both domains, and test tables on which commands are executed.

    A domain is given by its index in `DOMAINS`, and an object by its index in `OBJECTS`.
    """

    reach: FloatArray = REACH
    """(2, 3): the smallest and the largest command."""
    objects: int = len(OBJECTS)
    """Objects on a table."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = GraspSpec(DOMAINS, config.crop_size)

    @functools.cached_property
    def data(self) -> ImageData:
        """For each attempt, the crop of the picture around its command, and its label.

        Raises:
            RenderingUnavailable: the attempts have not been made yet, and offscreen OpenGL is not available.
        """
        parts = {stream: [self._cut(domain, stream) for domain in range(len(DOMAINS))] for stream in STREAMS}
        found = {}
        for stream, domains in parts.items():
            counts = [len(kept) for _, kept in domains]
            rows = list(torch.arange(sum(counts)).split(counts))
            found[stream] = task_images(torch.cat([cut for cut, _ in domains]), rows, [kept for _, kept in domains])
        mean, deviation = channel_statistics(found["train"].pool)
        return ImageData(found["train"], found["test"], mean, deviation, padding=0, flip=False)

    def _cut(self, domain: int, stream: str) -> tuple[Tensor, Tensor]:
        """The crop (n, 4, size, size) and label (n,) of every attempt in one domain. stream: train or test."""
        arrays = self.attempts(domain, stream)
        images = []
        for table in range(len(arrays["rgb"])):
            commands, wanted = torch.tensor(arrays["command"][table]), arrays["wanted"][table]
            pictures = torch.stack([self.picture(arrays, table, int(number)) for number in wanted])
            images.append(self.crops(domain, pictures, commands.unsqueeze(1)).squeeze(1))
        grasped, wanted = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("grasped", "wanted"))
        return torch.cat(images), labels(grasped, wanted).flatten()

    def attempts(self, domain: int, stream: str) -> Arrays:
        """S tables and K attempts on each, which are made on the first call. stream: train or test.

        Returns:
            rgb (S, H, W, 3), objects (S, H, W) as in `View`, command (S, K, 3), grasped (S, K): the lifted object,
            −1 for none, and wanted (S, K): the wanted object.
        """
        config = self.config
        tables, size = config.train_scenes if stream == "train" else config.test_scenes, config.image_size
        layout: Layout = {
            "rgb": (np.uint8, (tables, size, size, 3)),
            "objects": (np.int8, (tables, size, size)),
            "command": (np.float32, (tables, config.attempts, 3)),
            "grasped": (np.int8, (tables, config.attempts)),
            "wanted": (np.int8, (tables, config.attempts)),
        }
        name = f"{DOMAINS[domain]}-{stream}-{tables}x{config.attempts}-{size}px-seed{config.split_seed}-v{VERSION}"

        def fill(arrays: Arrays) -> None:
            say(f"Trying {tables * config.attempts} grasps in the {DOMAINS[domain]} domain.")
            clutter = self._clutter[domain]
            with Renderer(size) as renderer:
                for table in counted(range(tables), "tables"):
                    self._begin(domain, stream, table)
                    arrays["rgb"][table], arrays["objects"][table] = clutter.view(renderer)
                    rng = np.random.default_rng((config.split_seed, domain, STREAMS.index(stream), table))
                    for attempt in range(config.attempts):
                        found = _attempt(clutter, rng)
                        for key, value in zip(("command", "grasped", "wanted"), found, strict=True):
                            arrays[key][table, attempt] = value

        return made_once(Path(config.root) / "clutter" / name, layout, fill)

    def picture(self, arrays: Arrays, table: int, wanted: int) -> Tensor:
        """(4, H, W) uint8: the camera's picture of a table, and the mask of the wanted object."""
        rgb = torch.from_numpy(np.array(arrays["rgb"][table])).movedim(-1, 0)
        mask = torch.from_numpy(arrays["objects"][table] == wanted).to(torch.uint8) * 255
        return torch.cat([rgb, mask.unsqueeze(0)])

    def crops(self, domain: int, pictures: Tensor, commands: Tensor) -> Tensor:
        """pictures (M, 4, H, W), commands (M, P, 3) -> (M, P, 4, size, size); see `data.grasps.crops`."""
        projection = torch.from_numpy(self._clutter[domain].projection)
        return crops(pictures, commands, projection, GRASP_HEIGHT, self.config.crop_size)

    def execute(self, domain: int, table: int, command: FloatArray) -> int:
        """Grasp at a command (3,) on a test table. Returns the index of the lifted object, −1 for none."""
        self._begin(domain, "test", table)
        return self._clutter[domain].grasp(command)

    def _begin(self, domain: int, stream: str, table: int) -> None:
        self._clutter[domain].begin(self.config.split_seed, STREAMS.index(stream), table)

    @functools.cached_property
    def _clutter(self) -> list[Clutter]:
        return [Clutter(domain, self.config.image_size) for domain in DOMAINS]

    def description(self) -> dict[str, Any]:
        names = ("image_size", "crop_size", "train_scenes", "test_scenes", "attempts", "split_seed")
        facts = {name: getattr(self.config, name) for name in names}
        return {"benchmark": self.name, **facts, "version": VERSION, "mujoco": version("mujoco")}


def _attempt(clutter: Clutter, rng: np.random.Generator) -> tuple[FloatArray, int, int]:
    """A random attempt: the command (3,), the index of the lifted object (−1 for none), and that of the wanted one."""
    aimed, other = rng.integers(len(OBJECTS), size=2)
    place = clutter.places[aimed] + rng.normal(0, SPREAD, 2)
    command = np.clip([*place, rng.uniform(*REACH[:, 2])], *REACH)
    return command, clutter.grasp(command), int(aimed if rng.random() < 0.5 else other)
