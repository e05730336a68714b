"""Augmentation keeps the geometry of pictures; batches follow from their number."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl.data.dense import Augmentation, Chosen, DenseData, DenseEpochs, Picture, WithNoise
from mtrl.data.pixel_cache import made_once

HEIGHT, WIDTH = 24, 32
KINDS = ["depth", "disparity", "normals", "segmentation", "noise"]


def plane() -> Picture:
    """A slanted plane before a camera: its inverse depth is linear in the pixels. Colours tell rows and columns."""
    row, column = torch.meshgrid(torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij")
    inverse = (0.3 + 0.004 * row + 0.007 * column).unsqueeze(0)
    normal = torch.nn.functional.normalize(torch.tensor([0.5, 0.2, 0.8]).double(), dim=0).view(3, 1, 1)
    image = torch.stack([row / HEIGHT, column / WIDTH, torch.zeros_like(row)])
    label = (row > column).double().unsqueeze(0)
    return Picture(image, [1 / inverse, inverse, normal.expand(3, HEIGHT, WIDTH), label, image[:1]])


def slopes(inverse: Tensor) -> tuple[float, float, float]:
    """How inverse depth changes with row and column, by least squares, and the largest deviation from it."""
    height, width = inverse.shape
    row, column = np.mgrid[:height, :width]
    terms = np.stack([row.ravel(), column.ravel(), np.ones(row.size)], 1)
    solution, *_ = np.linalg.lstsq(terms, inverse.numpy().ravel(), rcond=None)
    return solution[0], solution[1], np.abs(terms @ solution - inverse.numpy().ravel()).max()


@pytest.mark.parametrize("scale", [1.0, 1.2, 1.5, 2.0])
def test_a_plane_stays_a_plane(scale: float) -> None:
    """The plane comes nearer by the scale, and its inverse depth keeps its slope, mirrored if the picture is.

    Pixels are picked, so a pixel of the larger picture may be off by about half a pixel of the smaller one.
    """
    augment = Augmentation((scale,), (16, 20), flip=True)
    mirrored = set()
    for seed in range(12):
        picture = augment(plane(), KINDS, torch.Generator().manual_seed(seed))
        depth, disparity, normals, *_ = picture.targets
        down, right, off = slopes(1 / depth[0])
        sign = 1 if right > 0 else -1
        mirrored.add(sign)
        assert off <= (0 if scale == 1 else 0.6 * scale * (0.004 + 0.007)) + 1e-9
        assert down == pytest.approx(0.004, rel=0.05) and right == pytest.approx(sign * 0.007, rel=0.05)
        torch.testing.assert_close(disparity, 1 / depth)
        torch.testing.assert_close(normals[:, 0, 0] * torch.tensor([sign, 1.0, 1.0]), plane().targets[2][:, 0, 0])
    assert mirrored == {1, -1}


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_targets_go_where_the_colours_go(scale: float) -> None:
    """The class that a pixel's colour tells is the class of the pixel, except at the edge between two classes."""
    augment = Augmentation((scale,), (16, 20), flip=True)
    for seed in range(6):
        picture = augment(plane(), KINDS, torch.Generator().manual_seed(seed))
        row, column = picture.image[0] * HEIGHT, picture.image[1] * WIDTH
        sure = (row - column).abs() > 1.5
        assert torch.equal((row > column)[sure], picture.targets[3][0][sure] == 1)
        torch.testing.assert_close(picture.targets[4], picture.image[:1])
        assert picture.image.shape == (3, 16, 20)


def test_what_is_invalid_stays_invalid() -> None:
    blank = Picture(torch.zeros(3, 8, 8), [torch.zeros(1, 8, 8), -torch.ones(1, 8, 8), torch.zeros(3, 8, 8)])
    for seed in range(4):
        made = Augmentation((1.5,), None, flip=True)(blank, KINDS[:3], torch.Generator().manual_seed(seed))
        assert all(torch.equal(a, b) for a, b in zip(made.targets, blank.targets, strict=True))


class Numbered:
    """Pictures whose colour is their number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Picture:
        return Picture(torch.full((3, 4, 4), index / 10), [torch.full((1, 4, 4), float(index)), torch.ones(1, 4, 4)])


def test_an_epoch_has_every_picture_once_and_follows_from_its_number() -> None:
    data = DenseData(Numbered(), Numbered(), Augmentation())
    epochs = DenseEpochs(data, ["depth", "depth"], 5, seed=3)
    found = [epochs.batch(k) for k in range(4)]
    numbers = [batch.targets[0][:, 0, 0, 0].tolist() for batch in found]
    assert sorted(numbers[0] + numbers[1]) == sorted(numbers[2] + numbers[3]) == list(range(10))
    assert numbers[0] + numbers[1] != numbers[2] + numbers[3]
    again = DenseEpochs(data, ["depth", "depth"], 5, seed=3).batch(2)
    assert torch.equal(again.images, found[2].images)
    assert found[0].images.shape == (1, 5, 3, 4, 4)
    torch.testing.assert_close(found[0].images[0, :, 0, 0, 0], 2 * torch.tensor(numbers[0]) / 10 - 1)


def test_noise_belongs_to_a_picture_and_tasks_can_be_chosen() -> None:
    noisy = WithNoise(Numbered(), seed=1)
    assert torch.equal(noisy[3].targets[2], noisy[3].targets[2]) and noisy[3].targets[2].min() >= 0
    assert not torch.equal(noisy[3].targets[2], noisy[4].targets[2])
    assert not torch.equal(noisy[3].targets[2], WithNoise(Numbered(), seed=2)[3].targets[2])
    part = Chosen(noisy, [7, 2], [2, 0])
    assert len(part) == 2 and torch.equal(part[1].targets[0], noisy[2].targets[2])
    assert part[0].targets[1][0, 0, 0] == 7


def test_a_cache_has_the_mode_of_any_new_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    made_once(tmp_path / "cache", {"one": (np.uint8, (2,))}, lambda arrays: arrays["one"].fill(1))
    modes = {folder.name: folder.stat().st_mode for folder in tmp_path.iterdir()}
    assert set(modes) == {"usual", "cache"} and modes["cache"] == modes["usual"]


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space is reserved first, since a process that writes to a memory map on a full disk is killed."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        made_once(tmp_path / "cache", {"one": (np.uint8, (2,))}, lambda arrays: pytest.fail("nothing may be written"))
    assert not list(tmp_path.iterdir())
