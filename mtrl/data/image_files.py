"""Readers of image data sets in the files that their authors publish.

The readers of CIFAR, SVHN and MNIST take the folder that holds the data set's own folder or files, and return training
and test images. A missing or malformed file raises an error of one line that names it. Pickles may contain only the
objects on an allow-list.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.core.errors import expected, missing, reading
from mtrl.core.memory import check_content
from mtrl.data import safe_pickle
from mtrl.data.images import LabelledImages, Split

CIFAR_SHAPE = (3, 32, 32)
_COMPRESSED = 15


def cifar10(root: Path | str) -> Split:
    """CIFAR-10 from `<root>/cifar-10-batches-py`: 50,000 training and 10,000 test images of 32×32.

    Raises:
        UserError: a file is missing or malformed.
    """
    folder = _folder(root, ["cifar-10-batches-py"], "cifar10")
    train = [_cifar_file(folder / f"data_batch_{k}", ["labels"], [10]) for k in range(1, 6)]
    return Split(_joined(train), _joined([_cifar_file(folder / "test_batch", ["labels"], [10])]))


def cifar100(root: Path | str) -> tuple[Split, list[str], list[str]]:
    """CIFAR-100 from `<root>/cifar-100-python`, and the names of its 100 classes and 20 superclasses.

    Labels are classes, and `LabelledImages.coarse` are superclasses.

    Raises:
        UserError: a file is missing or malformed.
    """
    folder = _folder(root, ["cifar-100-python"], "cifar100")
    keys, limits = ["fine_labels", "coarse_labels"], [100, 20]
    split = Split(*(_joined([_cifar_file(folder / part, keys, limits)]) for part in ("train", "test")))
    meta = _pickled(folder / "meta")
    fine, coarse = (
        _names(folder / "meta", meta.get(k), n)
        for k, n in zip(("fine_label_names", "coarse_label_names"), limits, strict=True)
    )
    return split, fine, coarse


def svhn(root: Path | str) -> Split:
    """SVHN's cropped digits from `<root>/svhn/{train,test}_32x32.mat`. The label 10 of the digit 0 becomes 0.

    The files may also lie in `root` itself, where torchvision puts them.

    Raises:
        UserError: a file is missing or malformed, or SciPy is not installed.
    """
    whole = all((Path(root) / f"{part}_32x32.mat").is_file() for part in ("train", "test"))
    folder = _folder(root, ["." if whole else "svhn"], "svhn")
    return Split(*(_svhn_file(folder / f"{part}_32x32.mat") for part in ("train", "test")))


def mnist(root: Path | str) -> Split:
    """MNIST from `<root>/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte`, each plain or with `.gz`.

    The folder may also be torchvision's `MNIST/raw`. A file may have a dot in place of the second hyphen, or be in a
    folder of its own name.

    Raises:
        UserError: a file is missing or malformed.
    """
    names = ["MNIST/raw", "mnist"]  # the first may be what an interrupted download has left
    folder = _folder(root, names[::-1] if (Path(root) / names[1]).is_dir() else names, "mnist")
    parts = []
    for part in ("train", "t10k"):
        images = idx(_mnist_file(folder / f"{part}-images-idx3-ubyte"), 3)
        path = _mnist_file(folder / f"{part}-labels-idx1-ubyte")
        labels = _labels(f"Labels in {path}", idx(path, 1), len(images), 10)
        parts.append(LabelledImages(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)))
    return Split(*parts)


def idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """A uint8 array in the idx format: two zero bytes, the type (8), the number of axes, their sizes, the data.

    Raises:
        UserError: the file is not such an array of `dimensions` axes.
    """
    raw = _bytes(path)
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise expected(f"File {path}", f"an idx file of bytes with {dimensions} axes", raw[:4].hex(" "))
    sizes = struct.unpack(f">{dimensions}I", raw[4:header])
    count = math.prod(sizes)
    if len(raw) != header + count:
        raise expected(f"File {path}", f"{header + count} bytes for {' x '.join(map(str, sizes))}", len(raw))
    with reading(path, "an array that NumPy can hold"):  # with an axis of 0, the others may be too long
        return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes).copy()


def celeba_attributes(path: Path | str) -> tuple[list[str], list[str], torch.Tensor]:
    """Read CelebA's `list_attr_celeba.txt` or `.csv`: K attribute names, M file names, and values (M, K) in {0, 1}.

    The text file has a line with M, a line with the attribute names, and then a line for each image with its name and K
    times 1 or −1. The CSV in Kaggle's archive has a line with `image_id` and the attribute names, and then a line for
    each image as before, but with commas.

    Raises:
        UserError: the file is missing or malformed.
    """
    path = Path(path)
    try:
        lines = _bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise expected(f"File {path}", "a text file", f"byte {error.start}, which is not text") from error
    if lines and "," in lines[0]:
        with reading(path, "a CSV of short cells"):
            (_, *names), *rows = ([cell.strip() for cell in row] for row in csv.reader(lines))
        numbered = [(number, row) for number, row in enumerate(rows, 2) if row]
        count = len(numbered)
    else:
        if len(lines) < 2 or not re.fullmatch(r"\s*[0-9]{1,18}\s*", lines[0]) or not lines[1].split():
            raise expected(f"File {path}", "a line with a count, then one with attribute names, or a CSV", lines[:1])
        count, names = int(lines[0]), lines[1].split()
        numbered = [(number, line.split()) for number, line in enumerate(lines[2:], 3) if line.strip()]
    if len(numbered) != count:
        raise expected(f"File {path}", f"lines for {count} images", len(numbered))
    for number, row in numbered:
        if len(row) != len(names) + 1 or not set(row[1:]) <= {"1", "-1"}:
            shown = " ".join(row[:4])
            raise expected(f"File {path}, line {number}", f"a file name and {len(names)} times 1 or -1", shown)
    values = np.array([row[1:] for _, row in numbered]).reshape(count, len(names)) == "1"
    return names, [row[0] for _, row in numbered], torch.from_numpy(values.astype(np.int64))


def _folder(root: Path | str, names: Sequence[str], fetched: str) -> Path:
    """The first of these folders in `root` that exists. fetched: the data set's name for `mtrl data fetch`."""
    folders = [Path(root) / name for name in names]
    for folder in folders:
        if folder.is_dir():
            return folder
    command = f"mtrl data fetch {fetched}" + (f" --root {root}" if str(root) != "data" else "")
    raise expected(f"Folder {folders[-1]}", f"there (`{command}` downloads it, or copy it)", "none")


def _there(path: Path) -> Path:
    if not path.is_file():
        raise expected(f"File {path}", "there", "a folder" if path.is_dir() else "none")
    return path


def _bytes(path: Path) -> bytes:
    with reading(_there(path), "readable and intact"):
        return b"".join(_gunzipped(path)) if path.suffix == ".gz" else path.read_bytes()


def _gunzipped(path: Path) -> Iterator[bytes]:
    """The content of a compressed file, piece by piece, refused if it is far larger than the file."""
    done = 0
    with gzip.open(path) as file:
        while part := file.read(1 << 20):
            done += len(part)
            check_content(path, done)
            yield part


def _mnist_file(path: Path) -> Path:
    names = [path.name, path.name.replace("-idx", ".idx")]
    for name in names:
        for found in (path.with_name(name), path.with_name(f"{name}.gz"), path.with_name(name) / name):
            if found.is_file():
                return found
    return _there(path)


def _pickled(path: Path) -> dict[str, Any]:
    _there(path)
    found = safe_pickle.load(path, safe_pickle.NUMPY, encoding="latin1")
    if not isinstance(found, dict):
        raise expected(f"File {path}", "a pickled dict", type(found).__name__)
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


def _cifar_file(path: Path, keys: list[str], limits: list[int]) -> tuple[NDArray[np.uint8], list[NDArray[np.int64]]]:
    """Images (M, 3, 32, 32) and one array of labels (M,) for each key."""
    content = _pickled(path)
    missing = [key for key in ("data", *keys) if key not in content]
    if missing:
        raise expected(f"File {path}", f"a pickle with {', '.join(('data', *keys))}", f"no {missing[0]}")
    data = content["data"]
    pixels = int(np.prod(CIFAR_SHAPE))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != pixels:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise expected(f"`data` of {path}", f"a uint8 array (M, {pixels})", found)
    named = zip(keys, limits, strict=True)
    labels = [_labels(f"`{key}` of {path}", content[key], len(data), limit) for key, limit in named]
    return data.reshape(-1, *CIFAR_SHAPE), labels


def _names(path: Path, found: Any, count: int) -> list[str]:
    items = found if isinstance(found, list | tuple | np.ndarray) else []
    names = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in items]
    if len(names) != count or not all(isinstance(n, str) for n in names):
        shown = f"{len(names)} of {', '.join(sorted({type(n).__name__ for n in names}))}" if names else "none"
        raise expected(f"File {path}", f"a pickle with {count} class names", shown)
    return names


def _joined(files: list[tuple[NDArray[np.uint8], list[NDArray[np.int64]]]]) -> LabelledImages:
    images = torch.from_numpy(np.concatenate([images for images, _ in files]))
    columns = [torch.from_numpy(np.concatenate(c)) for c in zip(*(labels for _, labels in files), strict=True)]
    return LabelledImages(images, *columns)


def _svhn_file(path: Path) -> LabelledImages:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise missing("SVHN's files", "SciPy", "vision") from error
    with reading(_there(path), "a MATLAB 5 file"):
        _check_mat(path)
        content = loadmat(path, variable_names=["X", "y"])
    images, labels = content.get("X"), content.get("y")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        found = "none" if images is None else f"{images.dtype} {images.shape}"
        raise expected(f"`X` of {path}", "a uint8 array (32, 32, 3, M)", found)
    if labels is None:
        raise expected(f"`y` of {path}", f"{images.shape[3]} labels", "none")
    digits = _labels(f"`y` of {path}", labels.reshape(-1), images.shape[3], 10, first=1) % 10
    return LabelledImages(torch.from_numpy(images.transpose(3, 2, 0, 1).copy()), torch.from_numpy(digits))


def _check_mat(path: Path) -> None:
    """Refuse a MATLAB 5 file whose compressed elements (type 15, size, zlib stream) are far larger than the file."""
    done = 0
    with open(path, "rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        while len(head := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}2I", head)
            if kind != _COMPRESSED:
                file.seek(size, os.SEEK_CUR)
                continue
            stream, rest = zlib.decompressobj(), file.read(size)
            while rest and not stream.eof:
                done += len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
                check_content(path, done)


def _labels(what: str, found: Any, count: int, classes: int, first: int = 0) -> NDArray[np.int64]:
    """Check that labels (count,) are integers from `first` to `first` + `classes` − 1, and return them as int64."""
    try:
        values = np.array(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise expected(what, "integers", type(found).__name__) from error
    if values.shape != (count,):
        raise expected(what, f"one label for each of {count} images", values.shape)
    if (values != np.round(values)).any():
        raise expected(what, "integers", float(values[values != np.round(values)][0]))
    if values.size and not first <= values.min() <= values.max() < first + classes:
        wanted = f"within {classes} classes, {first} to {first + classes - 1}"
        raise expected(what, wanted, f"{values.min():.0f} to {values.max():.0f}")
    return values.astype(np.int64)
