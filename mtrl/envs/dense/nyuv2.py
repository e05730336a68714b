"""NYUv2: 13 classes, depth and surface normals of rooms (Silberman et al. 2012), as MTAN's authors publish it.

`<root>/nyuv2/{train,val}/{image,label,depth,normal}/<i>.npy` hold 795 training and 654 test pictures of 288×384 as
arrays (H, W, C). A label is in 0..12, or −1 if it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from mtrl.data import dense_files
from mtrl.data.dense import Picture
from mtrl.envs.dense.base import DenseSuite, FilesConfig, of_files

TARGETS = {"segmentation": ("segmentation", 13), "depth": ("depth", 1), "normals": ("normals", 3)}
FILES: Mapping[str, int] = {"image": 3, "label": 1, "depth": 1, "normal": 3}
"""folder -> channels of its arrays"""


@dataclass
class Config(FilesConfig):
    defaults: ClassVar[Mapping[str, str]] = {"agent.normals_loss": "l1"}
    kind: str = "nyuv2"
    size: list[int] = field(default_factory=lambda: [288, 384])
    scales: list[float] = field(default_factory=lambda: [1.0, 1.2, 1.5])


class NYUv2Pictures:
    """The pictures of one part, train or val. Each is read when it is used."""

    def __init__(self, folder: Path, size: dense_files.Size) -> None:
        self._folder, self._size = folder, size
        self._count = dense_files.count_numbered(folder, dict.fromkeys(FILES, ".npy"))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:
        paths = {name: self._folder / name / f"{index}.npy" for name in FILES}
        arrays = {name: dense_files.array(paths[name], self._size, channels) for name, channels in FILES.items()}
        arrays["label"] = dense_files.labels(paths["label"], arrays["label"], TARGETS["segmentation"][1])
        image, *targets = (torch.from_numpy(values).movedim(-1, 0) for values in arrays.values())
        return Picture(image, targets)


def build(config: Config) -> DenseSuite:
    return of_files(config, TARGETS, NYUv2Pictures)
