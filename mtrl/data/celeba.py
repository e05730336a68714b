"""CelebA: faces and their forty attributes, from the published files by way of a memory-mapped cache of small images.

`<root>/celeba` has `img_align_celeba/*.jpg`, `list_attr_celeba.txt` and `list_eval_partition.txt`, in the layout of its
authors (Liu et al. 2015) and torchvision, or the `.csv` lists and the nested image folder of Kaggle's archive. The
first use decodes every image once, and keeps it at a given size in `<root>/celeba/cache_<size>`. The 202,599 images
take 2.5 GB at 64×64. On a CPU, they stay on disk: a start reads the training images once for their mean and standard
deviation, and training reads those that it draws. If a list has changed, the cache is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mtrl.core.errors import expected, reading
from mtrl.core.records import read_json
from mtrl.data.image_files import celeba_attributes
from mtrl.data.images import LabelledImages, Split

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""The names of the attributes, in the order of the files."""
PARTS = ("train", "validation", "test")
"""The parts 0, 1 and 2 of the published partition."""
FORMAT = 1
_AT_ONCE = 256
_MOST_PIXELS = 89_478_485
"""The most pixels of a picture: Pillow's usual limit, above which it suspects an attack."""


def celeba(root: Path | str, size: int, announce: Callable[[str], None] = lambda _: None) -> Split:
    """CelebA's three parts: uint8 images (M, 3, size, size), memory-mapped, and int64 labels (M, 40) in {0, 1}.

    announce: called with one line for the user if the cache has to be made.

    Raises:
        UserError: a file is missing or damaged, or the two lists are not CelebA's or do not match.
    """
    folder = Path(root) / "celeba"
    if not folder.is_dir():
        where = "there with CelebA's files (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
        raise expected(f"Folder {folder}", where, "none")
    lists = {name: _listed(folder, name) for name in ("list_attr_celeba", "list_eval_partition")}
    cache = folder / f"cache_{size}"
    facts: dict[str, object] = {
        "format": FORMAT,
        "size": size,
        **{name: zlib.crc32(_content(path)) for name, path in lists.items()},
    }
    if not _is_of(cache, facts):
        announce(f"Decoding the pictures in {folder} into {cache}, once.")
        _write(cache, facts, folder, lists)
    return _read(cache, size)


def partition(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The M file names and their parts (M,) in {0, 1, 2}. On a line, a blank or a comma (in a CSV) separates the two.

    Raises:
        UserError: the file cannot be read, or a line is malformed.
    """
    lines = [line.replace(",", " ").split() for line in _content(path).decode("utf-8", "replace").splitlines()]
    first = 1 if lines and path.suffix == ".csv" else 0
    for number, row in enumerate(lines[first:], first + 1):
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise expected(f"File {path}, line {number}", "a file name, and 0, 1 or 2", " ".join(row[:4]))
    rows = lines[first:]
    return [name for name, _ in rows], np.array([int(part) for _, part in rows], np.int64)


def _listed(folder: Path, name: str) -> Path:
    """The path of a list: its text file, or else its CSV."""
    for path in (folder / f"{name}.txt", folder / f"{name}.csv"):
        if path.is_file():
            return path
    raise expected(f"File {folder / name}.txt", "there, or the same list as .csv", "none")


def _content(path: Path) -> bytes:
    with reading(path, "readable"):
        return path.read_bytes()


def _is_of(cache: Path, facts: dict[str, object]) -> bool:
    """Whether the cache was made from these lists."""
    path = cache / "facts.json"
    if not path.is_file():
        return False
    found = read_json(path, {"counts": [int]})
    return {name: value for name, value in found.items() if name != "counts"} == facts


def _read(cache: Path, size: int) -> Split:
    counts = read_json(cache / "facts.json", {"counts": [int]})["counts"]
    total = sum(counts)
    pictures = _mapped(cache / "pictures.bin", (total, 3, size, size))
    labels = _mapped(cache / "labels.bin", (total, len(ATTRIBUTES))).long()
    pieces = zip(pictures.split(counts), labels.split(counts), strict=True)
    parts = dict(zip(PARTS, (LabelledImages(images, values) for images, values in pieces), strict=True))
    return Split(**parts)


def _mapped(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    needed, found = int(np.prod(shape)), path.stat().st_size if path.is_file() else 0
    if needed != found:
        raise expected(f"File {path}", f"of {needed} bytes; delete its folder to have it made again", found)
    return torch.from_file(str(path), shared=False, size=needed, dtype=torch.uint8).view(shape)


def _write(cache: Path, facts: dict[str, object], folder: Path, lists: dict[str, Path]) -> None:
    """Decode every image, in the order of the parts, into a folder that is renamed to `cache` when it is complete."""
    names, files, labels = celeba_attributes(lists["list_attr_celeba"])
    if tuple(names) != ATTRIBUTES:
        what = f"the {len(ATTRIBUTES)} attributes of CelebA in their order"
        raise expected(f"File {lists['list_attr_celeba']}", what, names)
    others, parts = partition(lists["list_eval_partition"])
    if others != files:
        place = next((k for k, (a, b) in enumerate(zip(files, others, strict=False)) if a != b), None)
        found = f"{len(others)} pictures" if place is None else others[place]
        wanted = f"of the {len(files)} pictures of {lists['list_attr_celeba'].name}, in their order"
        raise expected(f"File {lists['list_eval_partition']}", wanted, found)
    counts = np.bincount(parts, minlength=len(PARTS)).tolist()
    if not all(counts):
        raise expected(f"File {lists['list_eval_partition']}", "with pictures in each of the parts 0, 1 and 2", counts)
    order = np.argsort(parts, kind="stable")
    pictures = _picture_folder(folder)
    with _new_folder(cache) as aside:
        size = int(str(facts["size"]))
        decoded = _decoded([pictures / files[k] for k in order], lambda path: picture(path, size))
        _write_synced(aside / "labels.bin", [labels.numpy()[order].astype(np.uint8).tobytes()])
        _write_synced(aside / "pictures.bin", (pixels.tobytes() for pixels in decoded))
        _write_synced(aside / "facts.json", [json.dumps({**facts, "counts": counts}, indent=2).encode()])


def _write_synced(path: Path, parts: Iterable[bytes]) -> None:
    """A cache with its final name is whole, even after a power cut."""
    with open(path, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _decoded(paths: Sequence[Path], decode: Callable[[Path], NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The decoded images, in order. All cores together decode `_AT_ONCE` images at a time, which are held in memory."""
    with ThreadPoolExecutor() as pool:
        for begin in range(0, len(paths), _AT_ONCE):
            yield from pool.map(decode, paths[begin : begin + _AT_ONCE])


@contextlib.contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """A new folder to fill inside the block, which replaces `place` at the end."""
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        shutil.rmtree(place, ignore_errors=True)
        os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _picture_folder(folder: Path) -> Path:
    outer = folder / "img_align_celeba"
    inner = outer / "img_align_celeba"  # in Kaggle's archive
    found = inner if inner.is_dir() else outer
    if not found.is_dir():
        raise expected(f"Folder {found}", "there with CelebA's aligned pictures", "none")
    return found


def picture(path: Path, size: int) -> NDArray[np.uint8]:
    """An image as uint8 RGB (3, size, size), resized with Pillow's bilinear filter. Its aspect ratio is not kept.

    Raises:
        UserError: the file is missing or damaged.
    """
    with reading(path, "an intact JPEG or PNG picture"), Image.open(path, formats=["JPEG", "PNG"]) as image:
        if image.width * image.height > _MOST_PIXELS:  # Pillow only warns; filters of warnings are not thread-safe
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)
