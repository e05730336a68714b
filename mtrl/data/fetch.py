"""Downloads the image data sets. Each file is checked against its published MD5 before it is put in place."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtrl.core.errors import UserError, expected, reading

_CHUNK = 1 << 20
Show = Callable[[int, int], None]
"""Called with the bytes received so far and the bytes in total (0 if the server does not say)."""


@dataclass(frozen=True)
class Source:
    """One file of a data set."""

    url: str
    md5: str
    folder: str = ""
    """The file's folder within the root. An archive is unpacked into the root itself."""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".tar.gz")


_MNIST, _SVHN = "https://ossci-datasets.s3.amazonaws.com/mnist", "http://ufldl.stanford.edu/housenumbers"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
SOURCES: dict[str, tuple[Source, ...]] = {
    "cifar10": (Source(f"{_CIFAR}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
    "cifar100": (Source(f"{_CIFAR}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),),
    "mnist": (
        Source(f"{_MNIST}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "mnist"),
        Source(f"{_MNIST}/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", "mnist"),
        Source(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", "mnist"),
        Source(f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", "mnist"),
    ),
    "svhn": (
        Source(f"{_SVHN}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "svhn"),
        Source(f"{_SVHN}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "svhn"),
    ),
}


def fetch(name: str, root: Path | str, progress: Callable[[str], Show | None] | None = None) -> list[Path]:
    """Download a data set to where its reader looks for it. Files that are already there and intact are kept.

    Args:
        name: a key of `SOURCES`.
        progress: takes a file's name and returns the function that shows its download, if any.

    Returns:
        The paths of the data set's files, whether downloaded now or kept.

    Raises:
        UserError: there is no such data set, it cannot be downloaded or unpacked, or its checksum is wrong.
    """
    if name not in SOURCES:
        raise expected("The data set to fetch", f"one of {', '.join(SOURCES)}", name)
    paths = []
    for source in SOURCES[name]:
        path = Path(root) / source.folder / source.name
        if not (path.exists() and md5(path) == source.md5):
            _download(source, path, progress(source.name) if progress else None)
        if source.is_archive:
            with reading(path, "an archive that can be unpacked"), tarfile.open(path) as file:
                file.extractall(root, filter="data")
        paths.append(path)
    return paths


def md5(path: Path) -> str:
    """The MD5 checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(source: Source, path: Path, show: Show | None) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(source.url, timeout=60) as answer, open(aside, "wb") as file:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if show is not None:
                    show(done, total)
        found = md5(aside)
        if found != source.md5:
            raise expected(f"The download of {source.url}", f"of MD5 {source.md5}", found)
        os.replace(aside, path)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"The download of {source.url} to {path} should succeed. Found: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):  # a parent may be a file
            aside.unlink(missing_ok=True)
        for folder in new:
            with contextlib.suppress(OSError):  # the folder has the file, or does not exist
                folder.rmdir()
