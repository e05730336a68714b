"""Reads and checks the numbered pictures in folders of data sets with targets for each pixel."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl.core.errors import expected, reading
from mtrl.core.memory import check_content

Size = tuple[int, int]
"""Height and width."""


def count_numbered(folder: Path, endings: dict[str, str]) -> int:
    """The number of pictures in a part, whose folders have files 0, 1, 2, ... with these endings.

    endings: folder -> the ending of its files, such as .npy.

    Raises:
        UserError: a folder or a file is missing.
    """
    counts = {}
    for name, ending in endings.items():
        with reading(folder / name, "a folder with the data set's files", "Folder"):
            found = {path.name for path in (folder / name).iterdir() if path.suffix == ending}
        absent = next((number for number in range(len(found)) if f"{number}{ending}" not in found), None)
        if absent is not None or not found:
            raise expected(f"File {folder / name / f'{absent or 0}{ending}'}", "there", "none")
        counts[name] = len(found)
    first, *others = counts.items()
    for name, count in others:
        if count != first[1]:
            raise expected(f"Folder {folder / name}", f"of {first[1]} files, as {first[0]} has", count)
    return first[1]


def array(path: Path, size: Size, channels: int) -> NDArray[np.float32]:
    """The finite numbers (H, W, channels) in a `.npy` file. For one channel, an array (H, W) will do.

    Raises:
        UserError: the file is missing, damaged, or its array has another shape.
    """
    with reading(path, "a whole array of numbers"):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        shapes = [(*size, channels), *([size] if channels == 1 else [])]
        if found.shape not in shapes or found.dtype.kind not in "fiu":
            raise expected(f"File {path}", f"an array of numbers {shapes[0]}", f"{found.dtype} {found.shape}")
        numbers = np.array(found, np.float32).reshape(*size, channels)
    if not np.isfinite(numbers).all():
        raise expected(f"File {path}", "of finite numbers", "others")
    return numbers


def picture(path: Path, form: str, modes: Sequence[str], size: Size) -> NDArray[Any]:
    """The pixels of a PNG or TIFF file, (H, W) or (H, W, 3).

    modes: Pillow's names for the allowed kinds of pixels.

    Raises:
        UserError: the file is missing or damaged, or has another size or kind of pixels.
    """
    with reading(path, f"a whole {form} picture"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=[form]) as image:
            found = f"{image.mode} of {image.height} x {image.width}"
            if (image.height, image.width) != size or image.mode not in modes:
                raise expected(f"File {path}", f"{' or '.join(modes)} of {size[0]} x {size[1]} pixels", found)
            check_content(path, 4 * image.width * image.height)
            return np.asarray(image)


def labels(path: Path, values: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """The labels: whole numbers from −1 to `classes` − 1.

    Raises:
        UserError: there are other values.
    """
    wrong = (values < -1) | (values >= classes) | (values != np.round(values))
    if wrong.any():
        raise expected(f"Labels in {path}", f"whole numbers from -1 to {classes - 1}", float(values[wrong][0]))
    return values.astype(np.float32)
