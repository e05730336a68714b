"""Pictures and their targets as memory-mapped arrays, in a folder with one `.npy` file for each array.

A folder is made once. It is written under another name and renamed when it is complete, so several processes may make
the same folder at the same time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.core.errors import expected, reading

Layout = Mapping[str, tuple[Any, tuple[int, ...]]]
"""name -> (dtype, shape) of an array."""
Arrays = dict[str, NDArray[Any]]


def made_once(folder: Path, layout: Layout, fill: Callable[[Arrays], None]) -> Arrays:
    """The arrays of a folder, read-only. If the folder does not exist, it is made, and `fill` is called to write them.

    Raises:
        UserError: the folder's parent cannot be written, or a file in it is missing, damaged or of another shape.
        OSError: the files cannot be written, as on a full disk.
    """
    if not folder.exists():
        with reading(folder, "a folder that can be written", "Folder"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            outer = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            aside = outer / folder.name  # unlike `outer`, it has the usual mode, so others may read the cache
            aside.mkdir()
            files = {name: aside / f"{name}.npy" for name in layout}
            arrays: Arrays = {
                name: np.lib.format.open_memmap(files[name], "w+", dtype, shape)
                for name, (dtype, shape) in layout.items()
            }
            for file in files.values():
                _reserve(file)
            fill(arrays)
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(aside, folder)
        finally:
            shutil.rmtree(outer, ignore_errors=True)
    return {name: mapped(folder / f"{name}.npy", *expectation) for name, expectation in layout.items()}


def _reserve(file: Path) -> None:
    """Reserve a file's space, since a process that writes to a memory map on a full disk is killed."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with open(file, "r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)


def mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A read-only, memory-mapped array from a `.npy` file. Its content is read on use.

    dtype: the expected dtype, or an abstract one such as `np.floating`.

    Raises:
        UserError: the file is missing or damaged, or its array has another dtype or shape.
    """
    with reading(path, "an intact array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, dtype) or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise expected(f"File {path}", f"an array of {dtype.__name__} {shape}", found)
    return array
