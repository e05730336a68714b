"""Image readers on files of each format that the tests write, whole and damaged."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.data import image_files
from tests.support.image_files import cifar10, cifar100, idx, mnist, svhn, write_pickle


def test_cifar10_keeps_pixels_and_labels(tmp_path: Path) -> None:
    parts = cifar10(tmp_path)
    train, test = image_files.cifar10(tmp_path)[:2]
    assert train.images.shape == (20, 3, 32, 32) and train.images.dtype == torch.uint8
    third = parts["data_batch_3"]
    assert train.labels[8:12].tolist() == third[b"labels"]
    # row-major planes of 1,024 pixels: red, green, blue
    assert train.images[9, 1, 2, 5] == third[b"data"][1, 1024 + 2 * 32 + 5]
    assert test.labels.tolist() == parts["test_batch"][b"labels"] and test.coarse is None


def test_cifar100_has_both_kinds_of_labels_and_names(tmp_path: Path) -> None:
    cifar100(tmp_path)
    split, fine, coarse = image_files.cifar100(tmp_path)
    assert split.train.labels[:3].tolist() == [0, 1, 2]
    assert split.train.coarse is not None and split.train.coarse[:3].tolist() == [0, 7, 14]
    assert (len(fine), coarse[19]) == (100, "c19")


def test_pickles_of_python_2_can_be_read(tmp_path: Path) -> None:
    """Protocol 2 with 8-bit strings, as the published files are, written out by hand."""
    cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    data = bytes(range(256)) * 12
    stream = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x01M\x00\x0ctcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tbU\x06labels(lK\x07au."
    )
    path.write_bytes(stream)
    test = image_files.cifar10(tmp_path).test
    assert test.labels.tolist() == [7]
    assert test.images.flatten().tolist() == list(data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist(tmp_path: Path, suffix: str) -> None:
    parts = mnist(tmp_path, suffix)
    train, test = image_files.mnist(tmp_path)[:2]
    assert np.array_equal(train.images[:, 0].numpy(), parts["train-images-idx3"])
    assert test.labels.tolist() == parts["t10k-labels-idx1"].tolist()


@pytest.mark.parametrize("place", ["dots", "torchvision", "torchvision with .gz", "folders"])
def test_mnist_lies_where_others_put_it(tmp_path: Path, place: str) -> None:
    parts = mnist(tmp_path, ".gz" if place.endswith(".gz") else "")
    folder = tmp_path / "mnist"
    if place.startswith("torchvision"):
        (tmp_path / "MNIST").mkdir()
        folder.rename(tmp_path / "MNIST" / "raw")
    for path in folder.glob("*"):
        if place == "dots":
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
        else:
            content = path.read_bytes()
            path.unlink()
            path.mkdir()
            (path / path.name).write_bytes(content)
    train, test = image_files.mnist(tmp_path)[:2]
    assert np.array_equal(train.images[:, 0].numpy(), parts["train-images-idx3"])
    assert test.labels.tolist() == parts["t10k-labels-idx1"].tolist()


def test_every_flipped_byte_of_a_packed_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    mnist(tmp_path, ".gz")
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    whole, labels = path.read_bytes(), image_files.mnist(tmp_path).test.labels.tolist()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert image_files.mnist(tmp_path).test.labels.tolist() == labels
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)


def test_svhn_lies_where_torchvision_puts_it(tmp_path: Path) -> None:
    svhn(tmp_path)
    for path in (tmp_path / "svhn").iterdir():
        path.rename(tmp_path / path.name)
    assert image_files.svhn(tmp_path).train.labels.tolist() == [1, 0, 9, 0]


def test_names_of_classes_may_be_bytes(tmp_path: Path) -> None:
    cifar100(tmp_path)
    names = {b"fine_label_names": [b"f%d" % k for k in range(100)], b"coarse_label_names": [b"c"] * 20}
    write_pickle(tmp_path / "cifar-100-python" / "meta", names, protocol=4)
    assert image_files.cifar100(tmp_path)[1:] == ([f"f{k}" for k in range(100)], ["c"] * 20)


@pytest.mark.parametrize("kind", [float, np.int16, np.float32])
def test_whole_numbers_of_any_type_are_labels(tmp_path: Path, kind: type) -> None:
    broken_cifar(lambda c: {**c, b"labels": [kind(n) for n in (3, 0, 9, 1)]})(tmp_path)
    assert image_files.cifar10(tmp_path).train.labels[4:8].tolist() == [3, 0, 9, 1]


def test_svhn_labels_ten_as_zero(tmp_path: Path) -> None:
    content = svhn(tmp_path)
    train, _ = image_files.svhn(tmp_path)[:2]
    assert train.labels.tolist() == [1, 0, 9, 0]
    assert train.images[2, 1, 4, 9] == content["X"][4, 9, 1, 2]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize(
    "text",
    [
        "2\nBald Smiling Young\n000001.jpg -1  1  1\n000002.jpg  1 -1 -1\n",
        "image_id,Bald,Smiling,Young\n000001.jpg,-1,1,1\n000002.jpg,1,-1,-1\n",
    ],
    ids=["txt", "csv"],
)
def test_celeba_attributes(tmp_path: Path, text: str, end: str, mark: str) -> None:
    path = tmp_path / "list_attr_celeba.txt"
    path.write_bytes((mark + text.replace("\n", end)).encode())
    names, files, values = image_files.celeba_attributes(path)
    assert names == ["Bald", "Smiling", "Young"] and files == ["000001.jpg", "000002.jpg"]
    assert values.tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("text", ["1\nBald\n\na.jpg 5\n", "image_id,Bald\n\n\na.jpg,5\n"], ids=["txt", "csv"])
def test_errors_name_the_line_of_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(UserError, match="list, line 4 should be a file name and 1 times 1 or -1"):
        image_files.celeba_attributes(tmp_path / "list")


def test_a_broken_off_download_by_others_hides_no_whole_one(tmp_path: Path) -> None:
    mnist(tmp_path, "")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    assert len(image_files.mnist(tmp_path).train.labels)


class Exploit:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("pwned"),)


def broken_cifar(change: Callable[[dict[bytes, Any]], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = cifar10(root)["data_batch_2"]
        write_pickle(root / "cifar-10-batches-py" / "data_batch_2", change(content) or content)

    return damage


def truncated(make: Callable[[Path], Any], name: str, keep: float = 0.5) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        make(root)
        path = root / name
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])

    return damage


def changed(make: Callable[[Path], Any], name: str, content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        make(root)
        (root / name).write_bytes(content)

    return damage


def packed_mnist(root: Path) -> None:
    mnist(root, ".gz")


_C10, _M = "cifar-10-batches-py", "mnist/train-images-idx3-ubyte"
DAMAGES: list[tuple[str, Callable[[Path], Any], str, str]] = [
    ("cifar10", lambda root: None, "cifar-10-batches-py", "mtrl data fetch cifar10"),
    ("cifar10", truncated(cifar10, f"{_C10}/data_batch_2"), "data_batch_2", "an intact pickle"),
    ("cifar10", changed(cifar10, f"{_C10}/test_batch", b""), "test_batch", "an intact pickle"),
    ("cifar10", changed(cifar10, f"{_C10}/test_batch", pickle.dumps([1])), "test_batch", "dict"),
    ("cifar10", broken_cifar(lambda c: {b"data": c[b"data"]}), "data_batch_2", "no labels"),
    ("cifar10", broken_cifar(lambda c: {**c, b"data": c[b"data"][:, :5]}), "data_batch_2", r"\(4, 5\)"),
    ("cifar10", broken_cifar(lambda c: {**c, b"data": c[b"data"].astype(float)}), "data_batch_2", "float64"),
    ("cifar10", broken_cifar(lambda c: {**c, b"labels": [1, 2]}), "data_batch_2", "one label for each"),
    ("cifar10", broken_cifar(lambda c: {**c, b"labels": [1, 2, 3, 10]}), "data_batch_2", "10 classes"),
    ("cifar10", broken_cifar(lambda c: {**c, b"labels": ["a"] * 4}), "data_batch_2", "integers"),
    ("cifar10", broken_cifar(lambda c: {**c, b"labels": [1, 0.5, 2, 3]}), "data_batch_2", "integers. Found 0.5"),
    ("cifar10", broken_cifar(lambda c: {**c, b"labels": [1, float("nan"), 2, 3]}), "data_batch_2", "integers"),
    ("cifar10", broken_cifar(lambda c: {**c, b"extra": Exploit()}), "data_batch_2", "getattr"),
    ("cifar100", changed(cifar100, "cifar-100-python/meta", pickle.dumps({})), "meta", "class names"),
    ("mnist", truncated(mnist, _M), "train-images-idx3-ubyte", "bytes for 6 x 28 x 28"),
    ("mnist", truncated(packed_mnist, f"{_M}.gz"), "train-images-idx3-ubyte.gz", "intact"),
    ("mnist", changed(mnist, _M, b"\x00\x00\x0d\x03"), "train-images-idx3-ubyte", "idx file"),
    ("mnist", changed(mnist, "mnist/t10k-labels-idx1-ubyte", idx(np.zeros(2, np.uint8))), "mnist", "each of 3 images"),
    (
        "mnist",
        changed(mnist, "mnist/t10k-labels-idx1-ubyte", idx(np.full(3, 11, np.uint8))),
        "t10k-labels",
        "10 classes",
    ),
    ("mnist", lambda root: (root / "mnist").mkdir(), "mnist/train-images-idx3-ubyte", "there. Found 'none'"),
    ("svhn", truncated(svhn, "svhn/train_32x32.mat"), "train_32x32.mat", "MATLAB 5"),
    ("svhn", changed(svhn, "svhn/train_32x32.mat", b"x" * 300), "train_32x32.mat", "MATLAB 5"),
]


@pytest.mark.parametrize(("reader", "damage", "name", "reason"), DAMAGES, ids=lambda v: v if isinstance(v, str) else "")
def test_malformed_files_end_in_one_line_with_their_name(
    reader: str, damage: Callable[[Path], Any], name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "svhn":
        pytest.importorskip("scipy.io")
    monkeypatch.chdir(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        getattr(image_files, reader)(tmp_path)
    message = str(caught.value)
    assert name in message and "\n" not in message
    assert not Path("pwned").exists(), "the file's own code has run"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a line with a count"),
        ("x\nBald\n", "a line with a count"),
        ("2\nBald Young\na.jpg 1 1\n", "lines for 2 images"),
        ("1\nBald Young\na.jpg 1\n", "line 3.*2 times 1 or -1"),
        ("1\nBald Young\na.jpg 1 0\n", "line 3"),
        ("image_id,Bald,Young\na.jpg,1\n", "line 2.*2 times 1 or -1"),
        (f"image_id,Bald\n{'a' * 200_000},1\n", "a CSV of short cells"),
    ],
)
def test_malformed_attribute_lists(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        image_files.celeba_attributes(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [(2**31, 2**31, 4), (0, 2**32 - 1, 2**32 - 1)])
def test_sizes_beyond_any_array_are_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", *sizes))
    with pytest.raises(UserError, match=str(path)):
        image_files.idx(path, 3)
