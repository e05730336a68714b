"""Reads and writes PNG pictures as arrays. If a file cannot be read, the error is one line that names it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mtrl.core.errors import expected, reading
from mtrl.core.memory import check_content


def read_png(path: Path) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a PNG file. An alpha channel is dropped.

    Raises:
        UserError: the file is missing, truncated, or not an RGB picture with 8 bits per channel.
    """
    with reading(path, "an intact PNG picture"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                check_content(path, image.width * image.height * len(image.getbands()))
                image.load()
                pixels = np.asarray(image)
            with path.open("rb") as file:
                bits = file.read(25)[24]  # Pillow reads 16 bits per channel as 8
        except FileNotFoundError as error:
            raise expected(f"File {path}", "a picture", "no such file") from error
        except UnidentifiedImageError as error:
            raise expected(f"File {path}", "a PNG picture", "another format, or a damaged one") from error
    if pixels.ndim != 3 or pixels.shape[2] < 3 or bits != 8:
        raise expected(f"File {path}", "an RGB picture with 8 bits per channel", f"{pixels.shape} with {bits} bits")
    return pixels[..., :3]


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (H, W, 3) to a PNG file."""
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG", compress_level=1)
