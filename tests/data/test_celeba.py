"""CelebA's files, as published and as Kaggle has them, through the cache of small pictures, whole and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.data.celeba import ATTRIBUTES, celeba
from tests.support import image_files

SIZE = 16


@pytest.mark.parametrize("kaggle", [False, True])
def test_pictures_and_labels_of_each_part(tmp_path: Path, kaggle: bool) -> None:
    labels = torch.from_numpy(image_files.celeba(tmp_path, kaggle=kaggle))
    told: list[str] = []
    split = celeba(tmp_path, SIZE, told.append)
    assert split.validation is not None and len(told) == 1
    for begin, part in zip((0, 4, 8), (split.train, split.validation, split.test), strict=True):
        assert part.images.shape == (4, 3, SIZE, SIZE) and part.images.dtype == torch.uint8
        assert torch.equal(part.labels, labels[begin : begin + 4])
        bright = part.images[:, :, 2].float().mean((1, 2)), part.images[:, 1, -3].float().mean(1)
        for attribute, values in enumerate(bright):
            assert torch.equal(values > 100, part.labels[:, attribute].bool())
    again = celeba(tmp_path, SIZE, told.append)
    assert torch.equal(again.train.images, split.train.images) and len(told) == 1, "the second time from the cache"


def test_parts_in_any_order(tmp_path: Path) -> None:
    labels = torch.from_numpy(image_files.celeba(tmp_path, 6))
    names = [f"{k:06d}.jpg" for k in range(1, 7)]
    rows = [f"{name} {part}" for name, part in zip(names, (2, 0, 1, 0, 2, 0), strict=True)]
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(rows))
    split = celeba(tmp_path, SIZE)
    assert torch.equal(split.train.labels, labels[[1, 3, 5]]) and torch.equal(split.test.labels, labels[[0, 4]])
    assert torch.equal(split.train.images[:, 0, 2, 2] > 100, labels[[1, 3, 5], 0].bool())


def test_a_changed_list_makes_the_cache_again(tmp_path: Path) -> None:
    image_files.celeba(tmp_path)
    first = celeba(tmp_path, SIZE)
    path = tmp_path / "celeba" / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(" 1", " x").replace("-1", " 1").replace(" x", "-1"))
    assert torch.equal(celeba(tmp_path, SIZE).train.labels, 1 - first.train.labels)
    assert sorted(p.name for p in (tmp_path / "celeba").iterdir() if "cache" in p.name) == [f"cache_{SIZE}"]


def test_sizes_have_caches_of_their_own(tmp_path: Path) -> None:
    image_files.celeba(tmp_path)
    assert [celeba(tmp_path, size).test.images.shape[-1] for size in (8, SIZE, 8)] == [8, SIZE, 8]


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text("\n".join(change(path.read_text().splitlines())))

    return damage


def halved(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


PICTURE, PARTITION, LIST = "img_align_celeba/000007.jpg", "list_eval_partition.txt", "list_attr_celeba.txt"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no picture": (lambda f: (f / PICTURE).unlink(), f"{PICTURE} should be an intact JPEG"),
    "half a picture": (halved(PICTURE), f"{PICTURE} should be an intact JPEG"),
    "no picture at all": (lambda f: void((f / PICTURE).write_text("hello")), f"{PICTURE} should be an intact JPEG"),
    "no pictures": (lambda f: void((f / "img_align_celeba").rename(f / "faces")), "img_align_celeba should be there"),
    "no partition": (lambda f: (f / PARTITION).unlink(), f"{PARTITION} should be there"),
    "a part 3": (lines(PARTITION, lambda r: [*r[:-1], r[-1][:-1] + "3"]), "line 12 should be a file name, and 0, 1 or"),
    "a short partition": (lines(PARTITION, lambda r: r[:-1]), "of the 12 pictures of list_attr_celeba.txt.* Found '11"),
    "other pictures": (lines(PARTITION, lambda r: [r[0], "x.jpg 0", *r[2:]]), "of the 12 pictures .* Found 'x.jpg'"),
    "no test part": (lines(PARTITION, lambda r: [x.replace(" 2", " 1") for x in r]), "with pictures in each of the"),
    "other attributes": (lines(LIST, lambda r: [r[0], r[1].replace("Bald", "Tall"), *r[2:]]), "the 40 attributes of"),
    "a lost attribute": (lines(LIST, lambda r: [*r[:4], r[4][:-3], *r[5:]]), "line 5 should be a file name and 40"),
}


def void(_: object) -> None:
    return None


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    image_files.celeba(tmp_path)
    damage, match = DAMAGE[kind]
    damage(tmp_path / "celeba")
    with pytest.raises(UserError, match=match) as error:
        celeba(tmp_path, SIZE)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "celeba").glob("*cache*")), "nothing half made is left"


def test_a_damaged_cache_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="celeba should be there with CelebA's files"):
        celeba(tmp_path, SIZE)
    image_files.celeba(tmp_path)
    celeba(tmp_path, SIZE)
    halved("pictures.bin")(tmp_path / "celeba" / f"cache_{SIZE}")
    with pytest.raises(UserError, match=rf"of {12 * 3 * SIZE**2} bytes; delete its folder"):
        celeba(tmp_path, SIZE)


def test_there_are_forty_attributes() -> None:
    assert len(np.unique(ATTRIBUTES)) == 40
