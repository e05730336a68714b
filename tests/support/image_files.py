"""Image data sets of random pixels, in the formats of their publishers."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtrl.data.celeba import ATTRIBUTES

PIXELS = 3072


def write_pickle(path: Path, content: Any, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def cifar10(root: Path) -> dict[str, Any]:
    parts, rng = {}, np.random.default_rng(0)
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        parts[name] = {
            b"data": rng.integers(256, size=(4, PIXELS), dtype=np.uint8),
            b"labels": rng.integers(10, size=4).tolist(),
        }
        write_pickle(root / "cifar-10-batches-py" / name, parts[name])
    return parts


def cifar100(root: Path, images: int = 200) -> dict[str, Any]:
    """Every class appears; class f belongs to superclass (7 f) mod 20."""
    parts, rng = {}, np.random.default_rng(0)
    for name in ("train", "test"):
        fine = np.arange(images) % 100
        parts[name] = {
            b"data": rng.integers(256, size=(images, PIXELS), dtype=np.uint8),
            b"fine_labels": fine.tolist(),
            b"coarse_labels": (7 * fine % 20).tolist(),
        }
        write_pickle(root / "cifar-100-python" / name, parts[name])
    names = {b"fine_label_names": [f"f{k}" for k in range(100)], b"coarse_label_names": [f"c{k}" for k in range(20)]}
    write_pickle(root / "cifar-100-python" / "meta", names)
    return parts


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(root: Path, suffix: str = "") -> dict[str, np.ndarray]:
    parts, rng = {}, np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 3)):
        parts[f"{part}-images-idx3"] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        parts[f"{part}-labels-idx1"] = rng.integers(10, size=count).astype(np.uint8)
    (root / "mnist").mkdir(parents=True)
    for name, array in parts.items():
        content = idx(array)
        (root / "mnist" / f"{name}-ubyte{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return parts


def svhn(root: Path) -> dict[str, np.ndarray]:
    scipy = pytest.importorskip("scipy.io")
    (root / "svhn").mkdir(parents=True)
    labels = np.array([[1], [10], [9], [10]], dtype=np.uint8)
    images = np.random.default_rng(0).integers(256, size=(32, 32, 3, 4), dtype=np.uint8)
    for part in ("train", "test"):
        scipy.savemat(root / "svhn" / f"{part}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return {"X": images, "y": labels}


def archive(names: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def celeba(root: Path, pictures: int = 12, *, kaggle: bool = False) -> np.ndarray:
    """Faces of 178×218 whose grey tells the attributes, in the published files or in Kaggle's; labels (M, 40).

    The first third of the pictures is for training, the second for validation, and the last for testing.
    """
    folder = root / "celeba"
    place = folder / "img_align_celeba" / "img_align_celeba" if kaggle else folder / "img_align_celeba"
    place.mkdir(parents=True)
    labels = np.random.default_rng(1).integers(2, size=(pictures, len(ATTRIBUTES)))
    names, end = [f"{k + 1:06d}.jpg" for k in range(pictures)], ".csv" if kaggle else ".txt"
    for name, row in zip(names, labels, strict=True):
        grey = np.full((218, 178, 3), 40, np.uint8)
        grey[:109] += np.uint8(150 * row[0])
        grey[109:, :, 1] += np.uint8(150 * row[1])
        Image.fromarray(grey).save(place / name)
    mark = "," if kaggle else " "
    lines = [mark.join([name, *(f"{v:>{2 * (not kaggle)}}" for v in 2 * row - 1)]) for name, row in zip(names, labels)]  # noqa: B905
    head = [mark.join(["image_id", *ATTRIBUTES])] if kaggle else [str(pictures), " ".join(ATTRIBUTES)]
    (folder / f"list_attr_celeba{end}").write_text("\n".join([*head, *lines]) + "\n")
    parts = [f"{name}{mark}{3 * k // pictures}" for k, name in enumerate(names)]
    (folder / f"list_eval_partition{end}").write_text("\n".join(["image_id,partition"] * kaggle + parts) + "\n")
    return labels
