"""Reading pickles from elsewhere without running anything of theirs.

A pickle is a program: it may import any function and call it. Here it may name only what the caller allows, and each
of these names stands for the caller's own object. Everything else is refused by name before it is looked up.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtrl.core.errors import UserError, expected

NUMPY: dict[tuple[str, str], Any] = {}
"""What arrays and scalars of NumPy 1 and 2 are made of; nothing of it runs code of the file's."""


def _numpy_globals() -> dict[tuple[str, str], Any]:
    import _codecs

    import numpy as np
    from numpy._core import multiarray, numeric

    table: dict[tuple[str, str], Any] = {
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("_codecs", "encode"): _codecs.encode,
    }
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray", "_reconstruct"] = multiarray._reconstruct  # type: ignore[attr-defined]
        table[f"{package}.multiarray", "scalar"] = multiarray.scalar  # type: ignore[attr-defined]
        table[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    return table


NUMPY.update(_numpy_globals())


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, allowed: Mapping[tuple[str, str], Any], path: Path, encoding: str) -> None:
        super().__init__(file, fix_imports=False, encoding=encoding)
        self._allowed, self._path = allowed, path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UserError(
                f"File {self._path} should name only arrays and the classes of its format. Found {module}.{name}."
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise expected(f"File {self._path}", "a pickle without persistent references", str(pid))


def load(path: Path | str, allowed: Mapping[tuple[str, str], Any], *, encoding: str = "ASCII") -> Any:
    """What the pickle at `path` holds.

    Args:
        allowed: (module, name) -> the object that this global stands for; `NUMPY` has what arrays need.
        encoding: of the strings in a pickle of Python 2 ("bytes" or "latin1" for arrays in one).

    Raises:
        UserError: there is no such file, it names another global, or it is no whole pickle. Nothing of it has run.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, allowed, path, encoding).load()
    except UserError:
        raise
    except OSError as error:
        raise expected(f"File {path}", "a readable pickle", error.strerror) from error
    except Exception as error:  # a damaged pickle fails in any of a dozen ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise expected(f"File {path}", "a whole pickle", reason) from error
