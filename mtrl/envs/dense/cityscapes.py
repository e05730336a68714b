"""CityScapes: 19 classes, 10 part classes, and disparity of streets (Cordts et al. 2016), as Auto-λ's code reads it.

`<root>/cityscapes/{train,val}/` has four folders:

- `image/<i>.png`.
- `seg/<i>.png`, with the data set's class numbers, of which 19 count.
- `depth/<i>.png`, with 16-bit values p. The disparity is (p − 1) / (256 · 4) in pixels of these pictures, which have a
  quarter of the original width. It is unknown where p = 0.
- `part_seg/<i>.tif` (Meletis et al. 2020), with the numbers class · 10⁵ + instance · 10² + part. Four parts of people
  and riders count, and five of cars, trucks and buses. All else is class 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.core.errors import expected
from mtrl.data import dense_files
from mtrl.data.dense import Picture
from mtrl.envs.dense.base import DenseSuite, FilesConfig, of_files

CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The data set's numbers for the 19 classes that count."""
PEOPLE, VEHICLES = (24, 25), (26, 27, 28)
PEOPLE_PARTS, VEHICLE_PARTS = 4, 5
TARGETS = {
    "segmentation": ("segmentation", len(CLASSES)),
    "parts": ("segmentation", 1 + PEOPLE_PARTS + VEHICLE_PARTS),
    "disparity": ("disparity", 1),
}
ENDINGS: Mapping[str, str] = {"image": ".png", "seg": ".png", "part_seg": ".tif", "depth": ".png"}


@dataclass
class Config(FilesConfig):
    kind: str = "cityscapes"
    size: list[int] = field(default_factory=lambda: [256, 512])
    crop: list[int] = field(default_factory=lambda: [256, 256])


def classes_of(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """The data set's class numbers (0 to 255) -> 0 to 18, or −1 for classes that do not count."""
    table = np.full(256, -1.0, np.float32)
    table[list(CLASSES)] = np.arange(len(CLASSES))
    return table[numbers]


def parts_of(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """Part numbers -> 0 for no part, 1 to 4 for parts of people, 5 to 9 for parts of vehicles."""
    category, part = np.where(numbers >= 100_000, numbers // 100_000, -1), numbers % 100
    people = np.isin(category, PEOPLE) & (part >= 1) & (part <= PEOPLE_PARTS)
    vehicles = np.isin(category, VEHICLES) & (part >= 1) & (part <= VEHICLE_PARTS)
    return np.select([people, vehicles], [part, part + PEOPLE_PARTS], 0).astype(np.float32)


def disparity_of(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """16-bit pixels -> disparity in pixels; −1 where it is unknown."""
    return np.where(pixels > 0, (pixels.astype(np.float32) - 1) / (256 * 4), -1).astype(np.float32)


class CityScapesPictures:
    """The pictures of one part, train or val. Each is read when it is used."""

    def __init__(self, folder: Path, size: dense_files.Size) -> None:
        self._folder, self._size = folder, size
        self._count = dense_files.count_numbered(folder, dict(ENDINGS))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:
        image = self._pixels("image", index, "PNG", ["RGB"])
        seg = self._pixels("seg", index, "PNG", ["L", "P"])
        parts = self._pixels("part_seg", index, "TIFF", ["I"])
        if parts.min() < 0:
            raise expected(f"File {self._folder / 'part_seg' / f'{index}.tif'}", "of numbers >= 0", int(parts.min()))
        disparity = self._pixels("depth", index, "PNG", ["I;16", "I"])
        found = (classes_of(seg), parts_of(parts), disparity_of(disparity))
        targets = [torch.from_numpy(values).unsqueeze(0) for values in found]
        return Picture(torch.from_numpy(image.astype(np.float32) / 255).movedim(-1, 0), targets)

    def _pixels(self, name: str, index: int, form: str, modes: list[str]) -> NDArray[Any]:
        return dense_files.picture(self._folder / name / f"{index}{ENDINGS[name]}", form, modes, self._size)


def build(config: Config) -> DenseSuite:
    return of_files(config, TARGETS, CityScapesPictures)
