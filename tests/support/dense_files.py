"""Files of NYUv2 and CityScapes in their published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NYU = (6, 8)


def write_nyuv2(root: Path, size: tuple[int, int] = NYU, count: int = 2) -> dict[str, NDArray[np.float64]]:
    """`count` random pictures of each part; returns the arrays of the first training picture."""
    rng = np.random.default_rng(0)
    first: dict[str, NDArray[np.float64]] = {}
    for part in ("train", "val"):
        for number in range(count):
            arrays = {
                "image": rng.uniform(0, 1, (*size, 3)),
                "label": rng.integers(-1, 13, size).astype(float),
                "depth": rng.uniform(0, 5, (*size, 1)),
                "normal": rng.normal(size=(*size, 3)),
            }
            first = first or arrays
            for name, values in arrays.items():
                (root / "nyuv2" / part / name).mkdir(parents=True, exist_ok=True)
                np.save(root / "nyuv2" / part / name / f"{number}.npy", values)
    return first


CITY = (4, 6)


def write_cityscapes(root: Path) -> None:
    """One picture of each part, whose first row holds what the test asks for."""
    seg = np.full(CITY, 7, np.uint8)
    seg[0] = [0, 7, 8, 33, 11, 255]
    parts = np.zeros(CITY, np.int32)
    parts[0] = [24, 24_001, 2_400_102, 2_500_104, 2_600_205, 700_101]
    depth = np.full(CITY, 1 + 1024, np.uint16)
    depth[0] = [0, 1, 2, 1025, 2049, 65535]
    arrays = {"image": (np.full((*CITY, 3), 51, np.uint8), "png"), "seg": (seg, "png"), "depth": (depth, "png"),
              "part_seg": (parts, "tif")}  # fmt: skip
    for part in ("train", "val"):
        for name, (values, ending) in arrays.items():
            (root / "cityscapes" / part / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / "cityscapes" / part / name / f"0.{ending}")
