"""Reads and checks the numbered files in the folders of data sets for dense prediction."""

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
    """The number of pictures in a part of a data set, whose folders each have one file per picture, 0, 1, 2, ...

    endings: name of a folder in `folder` -> the ending of its files, such as .npy.

    Raises:
        UserError: a folder or a file is missing, or the folders have different numbers of files.
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
    """The array (H, W, channels) in a `.npy` file. With one channel, the file may also have the shape (H, W).

    Raises:
        UserError: the file is missing or damaged, or its array has another shape or numbers that are not finite.
    """
    with reading(path, "an intact array of numbers"):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        shapes = [(*size, channels), *([size] if channels == 1 else [])]
        if found.shape not in shapes or found.dtype.kind not in "fiu":
            raise expected(f"File {path}", f"an array of numbers {shapes[0]}", f"{found.dtype} {found.shape}")
        numbers = np.array(found, np.float32).reshape(*size, channels)
    if not np.isfinite(numbers).all():
        raise expected(f"File {path}", "of finite numbers", "others")
    return numbers


def picture(path: Path, form: str, modes: Sequence[str], size: Size) -> NDArray[Any]:
    """The pixels of an image file, (H, W) or (H, W, 3).

    Args:
        form: Pillow's name of the file's format, such as PNG or TIFF.
        modes: Pillow's names of the allowed pixel modes.
        size: the expected size.

    Raises:
        UserError: the file is missing or damaged, or has another size or pixel mode.
    """
    with reading(path, f"an intact {form} picture"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=[form]) as image:
            found = f"{image.mode} of {image.height} x {image.width}"
            if (image.height, image.width) != size or image.mode not in modes:
                raise expected(f"File {path}", f"{' or '.join(modes)} of {size[0]} x {size[1]} pixels", found)
            check_content(path, 4 * image.width * image.height)
            return np.asarray(image)


def labels(path: Path, values: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """The labels as float32, if they are integers from −1 (unknown) to `classes` − 1. path: their file, for errors.

    Raises:
        UserError: there are other values.
    """
    wrong = (values < -1) | (values >= classes) | (values != np.round(values))
    if wrong.any():
        raise expected(f"Labels in {path}", f"integers from -1 to {classes - 1}", float(values[wrong][0]))
    return values.astype(np.float32)
