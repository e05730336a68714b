"""Files of every kind that is read, with bytes changed, lost or added: a right result, or one line with the name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mtrl.core.errors import UserError
from mtrl.data import image_files, rlbench_layout
from mtrl.data.demo_cache import DemoCache
from mtrl.networks.care import read_descriptions
from tests.support import image_files as written
from tests.support.damage import damages
from tests.support.keyframe_toys import CAMERAS, SIZE, TASKS, demo, write_cache

Read = Callable[[], Any]


def episode(root: Path) -> Path:
    made = demo(0, np.random.default_rng(0))
    for frame in made.frames:
        frame.images = frame.images or made.frames[0].images
    return rlbench_layout.write_demo(made, root, 0)


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def files(root: Path) -> dict[str, tuple[Read, Path]]:
    """kind -> (how it is read, the file that is to be changed)."""
    written.cifar10(root)
    written.cifar100(root)
    written.mnist(root, ".gz")
    written.svhn(root)
    path = episode(root)
    read: Read = lambda: rlbench_layout.read_demo(path, CAMERAS, frames=[0])  # noqa: E731
    names = {"celeba.csv": "image_id,Bald,Smiling\n1.jpg,-1,1\n", "celeba.txt": "1\nBald Smiling\n1.jpg -1 1\n"}
    lists = {name: text(root / name, content) for name, content in names.items()}
    table = text(root / "table.json", '{"reach": [1, 2.5], "push": [3, -4]}')
    write_cache(root / "cache", 2)
    cache: Read = lambda: DemoCache(root / "cache", TASKS, CAMERAS, SIZE).batch(torch.zeros(len(TASKS), 1).long())  # noqa: E731
    return {
        "cifar10": (lambda: image_files.cifar10(root), root / "cifar-10-batches-py" / "data_batch_1"),
        "cifar100": (lambda: image_files.cifar100(root), root / "cifar-100-python" / "meta"),
        "mnist": (lambda: image_files.mnist(root), root / "mnist" / "train-images-idx3-ubyte.gz"),
        "svhn": (lambda: image_files.svhn(root), root / "svhn" / "train_32x32.mat"),
        "celeba.csv": (lambda: image_files.celeba_attributes(lists["celeba.csv"]), lists["celeba.csv"]),
        "celeba.txt": (lambda: image_files.celeba_attributes(lists["celeba.txt"]), lists["celeba.txt"]),
        "descriptions": (lambda: read_descriptions(table), table),
        "positions": (read, path / rlbench_layout.LOW_DIM),
        "colours": (read, path / f"{CAMERAS[0]}_rgb" / "0.png"),
        "depth": (read, path / f"{CAMERAS[0]}_depth" / "0.png"),
        "facts": (cache, root / "cache" / TASKS[0] / "facts.json"),
        "stages": (cache, root / "cache" / TASKS[1] / "stage.bin"),
        "poses": (cache, root / "cache" / TASKS[1] / "pose.bin"),
    }


KINDS = [
    "cifar10",
    "cifar100",
    "mnist",
    "svhn",
    "celeba.csv",
    "celeba.txt",
    "descriptions",
    "positions",
    "colours",
    "depth",
    "facts",
    "stages",
    "poses",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Read, Path, bytes]]:
    pytest.importorskip("scipy.io")
    found = files(tmp_path_factory.mktemp("files"))
    assert list(found) == KINDS
    return {kind: (read, path, path.read_bytes()) for kind, (read, path) in found.items()}


@st.composite
def exchanges(draw: st.DrawFn, content: bytes) -> Callable[[Path], None]:
    """Some bytes at any place (a share of the file) give way to others."""
    cut = draw(st.sampled_from([0, 1, 1, 4, 20, 10**9]))
    place = round(draw(st.floats(0, 1)) * len(content))
    put = draw(st.binary(min_size=0 if cut else 1, max_size=8))
    return lambda path: void(path.write_bytes(content[:place] + put + content[place + cut :]))


def void(_: object) -> None: ...


@pytest.mark.parametrize("count", [150, pytest.param(800, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_read_or_refused_in_one_line(
    kind: str, count: int, prepared: Any, malformed: Callable[[], None]
) -> None:
    read, path, whole = prepared[kind]
    read()

    @seed(count)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(exchanges(whole) | damages(path.name, whole))
    def check(damage: Callable[[Path], None]) -> None:
        malformed()
        damage(path)
        try:
            read()
        except UserError as error:
            assert "\n" not in str(error) and (str(path.parent) in str(error) or not path.is_file())
        finally:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(whole)

    check()
