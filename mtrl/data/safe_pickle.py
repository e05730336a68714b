"""Reads untrusted pickles without running any of their code.

A pickle is a program that may import any function and call it. Here it may use only the names that the caller allows,
and the caller says which object each name stands for. Every other name is refused before it is looked up.

NumPy's own constructors are not safe: `ndarray(shape, object, buffer=bytes)`, or a dtype with fields of objects whose
flags deny them, create references to arbitrary memory addresses. So `NUMPY` holds stand-ins, which build arrays of
numbers, booleans and strings from their bytes and refuse everything else.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mtrl.core.errors import UserError, reading

_PLAIN_KINDS = "biufcSU"
_AXES = 64
"""The most axes of an array in NumPy."""
_MADE, _MADE_PER_BYTE = 1 << 20, 4
"""The calls in a pickle may produce at most `_MADE` bytes, plus `_MADE_PER_BYTE` for each byte of the file. Old
protocols write arrays as text, so a valid file may need several times its size."""


class _DType:
    """Stands in for `numpy.dtype`: a plain kind of number or string, and its byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str):  # messages show no object of the file: nested lists may be endless as text
            raise TypeError(f"dtype named by a {type(code).__name__}")
        self.value = np.dtype(code)
        if self.value.kind not in _PLAIN_KINDS:
            raise TypeError(f"dtype {code!r} is not one of numbers or strings")

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, subarray, names, fields, item size, alignment, flags, ...)."""
        _, order, subarray, names, fields = state[:5]
        if subarray is not None or names or fields or order not in ("<", ">", "|", "="):
            raise TypeError("dtype is not one of plain numbers or strings")
        self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """An array that gets its content by `__setstate__`."""

    filled = False

    def __setstate__(self, state: Any) -> None:
        """(version, shape, dtype, Fortran order, bytes). Only once: NumPy frees the former content, viewed or not."""
        _, shape, kind, fortran, raw = state
        if self.filled or not isinstance(kind, _DType) or not isinstance(raw, bytes | str):
            raise TypeError("array is not one of plain numbers or strings")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        shape = _sizes(shape)
        if math.prod(shape) * kind.value.itemsize != len(raw):
            raise ValueError(f"array {shape} of {kind.value} does not fit its {len(raw)} bytes")
        self.filled = True
        super().__setstate__((1, shape, kind.value, bool(fortran), raw))  # type: ignore[arg-type]


def _sizes(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if len(sizes) > _AXES or not all(isinstance(size, int) and 0 <= size < 2**63 for size in sizes):
        raise ValueError("shape that no array has")
    return sizes


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    """An empty array, whose content follows in the pickle."""
    if kind is not _ndarray:
        raise TypeError("array of an unknown class")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _ndarray(*_: Any) -> Any:
    raise TypeError("array made by a call")


def _frombuffer(buffer: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """With order K, `shape` is that in memory, and `axes` how it is then transposed."""
    if not isinstance(buffer, bytes | bytearray) or not isinstance(kind, _DType) or order not in ("C", "F", "K"):
        raise TypeError("array is not one of plain numbers or strings")
    flat, sizes = np.frombuffer(buffer, kind.value), _sizes(shape)
    if order != "K" or axes is None:
        return flat.reshape(sizes, order="F" if order == "F" else "C")
    places = _sizes(axes)
    if sorted(places) != list(range(len(sizes))):
        raise ValueError("axes that the array does not have")
    return flat.reshape(sizes).transpose(places)


def _scalar(kind: Any, data: Any = b"") -> Any:
    if not isinstance(kind, _DType) or not isinstance(data, bytes | str):
        raise TypeError("scalar is not a plain number or string")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, kind.value, 1)[0]


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """How protocols up to 2 write bytes. Other codecs are refused, since Python would import them by name."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("an encoding other than latin1")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """How protocols up to 2 write b""."""
    if arguments:
        raise TypeError("bytes made by a call")
    return b""


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _ndarray,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"{p}.multiarray", "_reconstruct"): _reconstruct for p in ("numpy.core", "numpy._core")},
    **{(f"{p}.multiarray", "scalar"): _scalar for p in ("numpy.core", "numpy._core")},
    **{(f"{p}.numeric", "_frombuffer"): _frombuffer for p in ("numpy.core", "numpy._core")},
}
"""What pickled arrays and scalars need, by the names in NumPy 1 and 2."""


class _Unpickler(pickle._Unpickler):
    """A subclass of the unpickler in Python. The one in C would allocate memory for any memo index in a file."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    stack: list[Any]

    def __init__(self, data: bytes, allowed: Mapping[tuple[str, str], Any], path: Path, encoding: str) -> None:
        super().__init__(io.BytesIO(data), fix_imports=False, encoding=encoding)  # BytesIO reads no more than it has
        self._allowed, self._path = allowed, path
        self._changed = (_Array, *(kind for kind in allowed.values() if isinstance(kind, type)))
        self._left = _MADE_PER_BYTE * len(data) + _MADE

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UserError(
                f"File {self._path} should name only arrays and the classes of its format. Found {module}.{name}."
            ) from None

    def _load_bytearray(self) -> None:
        """The opcode BYTEARRAY8. Python's own method would first allocate whatever size the file states."""
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        data = self.read(size)  # type: ignore[attr-defined]
        if len(data) != size:
            raise EOFError
        self.append(bytearray(data))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray  # type: ignore[attr-defined]

    def _count(self) -> None:
        """Count the bytes that a call has just produced, so that a file cannot expand the same text without end."""
        made = self.stack[-1]
        size = made.nbytes if isinstance(made, np.ndarray | np.generic) else len(made) if isinstance(made, bytes) else 0
        self._left -= size
        if self._left < 0:
            raise ValueError("more bytes than the file has")

    def _calling(load: Callable[[Any], None]) -> Callable[[Any], None]:  # type: ignore[misc]
        """Count the bytes that an opcode's call produces."""

        def counted(self: _Unpickler) -> None:
            load(self)
            self._count()

        return counted

    def _keyed(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:  # type: ignore[misc]
        """Refuse tuples and frozensets as keys: Python hashes them recursively, and would crash on a million levels."""

        def checked(self: _Unpickler) -> None:
            if any(isinstance(key, tuple | frozenset) for key in self.stack[keys]):
                raise TypeError("a key that is neither text nor a number")
            load(self)

        return checked

    def _load_build(self) -> None:
        """The opcode BUILD, only for instances of the allowed classes. Otherwise a file could change functions."""
        if not isinstance(self.stack[-2], self._changed):
            raise TypeError("attributes of something that is not an instance of an allowed class")
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = _load_build
    for _code in (pickle.REDUCE, pickle.BUILD, pickle.OBJ, pickle.INST, pickle.NEWOBJ, pickle.NEWOBJ_EX):
        dispatch[_code[0]] = _calling(dispatch[_code[0]])
    for _code, _keys in (
        (pickle.SETITEM, slice(-2, -1)),
        (pickle.SETITEMS, slice(None, None, 2)),
        (pickle.DICT, slice(None, None, 2)),
        (pickle.ADDITEMS, slice(None)),
        (pickle.FROZENSET, slice(None)),
    ):
        dispatch[_code[0]] = _keyed(dispatch[_code[0]], _keys)

    def persistent_load(self, pid: Any) -> Any:
        raise TypeError("a persistent reference")


def load(path: Path | str, allowed: Mapping[tuple[str, str], Any] = NUMPY, *, encoding: str = "ASCII") -> Any:
    """The content of the pickle at `path`. Its arrays may be of a subclass of `numpy.ndarray`.

    Args:
        allowed: (module, name) of a global -> the object to use for it. `NUMPY` has what arrays need. Add only classes
            that do nothing when they are called or given attributes.
        encoding: how to read the strings in a Python 2 pickle ("bytes", or "latin1" if it holds arrays).

    Raises:
        UserError: the file is missing, uses another global, or is not a complete pickle. None of its code has run.
    """
    path = Path(path)
    with reading(path, "a readable pickle"):
        data = path.read_bytes()
    with reading(path, "an intact pickle"):
        return _Unpickler(data, allowed, path, encoding).load()  # type: ignore[attr-defined]
