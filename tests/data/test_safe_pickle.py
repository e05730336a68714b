"""A pickle from elsewhere gives arrays and attribute bags, or one line; nothing of it runs."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.data import safe_pickle

VALUES = [
    np.arange(3.0),
    np.arange(12, dtype="<i4").reshape(3, 4, order="F"),
    np.arange(3, dtype=">i2"),
    np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    np.array(5.0),
    np.zeros((0, 3)),
    np.array([True, False]),
    np.array(["ab", "c"]),
    np.float64(3.5),
    np.int32(-2),
]


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def stored(path: Path, value: Any, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_scalars_of_every_protocol_come_back(tmp_path: Path, protocol: int) -> None:
    found = safe_pickle.load(stored(tmp_path / "a", {"values": VALUES, "text": "é"}, protocol))
    assert found["text"] == "é"
    for ours, theirs in zip(found["values"], VALUES, strict=True):
        assert np.array_equal(ours, theirs) and ours.dtype.kind == theirs.dtype.kind


def test_names_of_numpy_1_and_2_mean_the_same(tmp_path: Path) -> None:
    new = pickle.dumps(VALUES[:2], protocol=2)
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    for k, data in enumerate((old, new)):
        (tmp_path / str(k)).write_bytes(data)
        assert all(np.array_equal(a, b) for a, b in zip(safe_pickle.load(tmp_path / str(k)), VALUES, strict=False))


def test_another_global_is_refused_by_name_and_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    names = {
        "os": Calls(__import__("os").system, f"touch {canary}"),
        "eval": Calls(eval, f"open({str(canary)!r}, 'w')"),
    }
    for word, value in names.items():
        with pytest.raises(UserError, match=rf"File .*{word}x should name only arrays .* Found .*(system|eval)\."):
            safe_pickle.load(stored(tmp_path / f"{word}x", [np.arange(3), value]))
    assert not canary.exists()


FORGED = {
    "array of references from bytes": Calls(np.ndarray, (1,), "O", b"AAAAAAAA"),
    "array of objects": np.array([{}], dtype=object),
    "dtype of objects": Calls(np.dtype, "O"),
    "dtype with fields": np.zeros(1, dtype=[("a", "i4")]),
    "view of an array": Calls(
        importlib.import_module("numpy._core.numeric")._frombuffer, np.arange(9), np.dtype("i8"), (9,), "C"
    ),
    "codec by name": Calls(__import__("_codecs").encode, "x", "rot13"),
    "bytes of another length": None,
}


@pytest.mark.parametrize("name", FORGED)
def test_what_numpys_own_constructors_would_forge_is_refused(tmp_path: Path, name: str) -> None:
    """`ndarray(1, object, buffer)` and a dtype whose flags hide an object make references to any address."""
    path = tmp_path / "forged"
    if name == "bytes of another length":
        data = pickle.dumps(np.zeros(4, np.uint8), protocol=3)
        path.write_bytes(data.replace(b"K\x04\x85", b"M\xff\x00\x85"))
    else:
        stored(path, FORGED[name])
    with pytest.raises(UserError, match=r"File .*forged should be an intact pickle"):
        safe_pickle.load(path)


def test_a_hidden_object_dtype_is_refused(tmp_path: Path) -> None:
    """The state of a dtype may name fields of objects and say in its flags that there are none."""
    hidden = np.dtype((np.void, 8))
    hidden.__setstate__((3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))  # type: ignore[attr-defined]
    assert np.frombuffer(b"AAAAAAAA", hidden).dtype.fields, "NumPy itself refuses by now"
    with pytest.raises(UserError, match="should be an intact pickle"):
        safe_pickle.load(stored(tmp_path / "hidden", hidden))


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(VALUES)[:-20]], ids=["empty", "text", "truncated"])
def test_damaged_files_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"File .*damaged should be an intact pickle"):
        safe_pickle.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x07.",
        b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00abc.",
        b"\x80\x04\x95\x00\x00\x00\x00\x01\x00\x00\x00N.",
        b"\x80\x03B\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00abc.",
    ],
    ids=["memo", "bytearray", "frame", "bytes", "long bytes"],
)
def test_a_size_that_is_only_named_takes_no_memory(tmp_path: Path, data: bytes) -> None:
    """Gigabytes, in a dozen bytes."""
    path = tmp_path / "named"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            assert safe_pickle.load(path) is None
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


_ENCODE = b"c_codecs\nencode\n"
_DEEP = b")" + b"\x85" * 500_000  # ((((...,),),),)


@pytest.mark.parametrize("data", [b"}" + _DEEP + b"Ns.", b"(" + _DEEP + b"Nd.", b"\x8f(" + _DEEP + b"\x90."])
def test_a_deep_key_does_not_end_the_process(tmp_path: Path, data: bytes) -> None:
    """Python's own hash of it overflows the stack."""
    (tmp_path / "deep").write_bytes(b"\x80\x04" + data)
    with pytest.raises(UserError, match="a key that is neither text nor a number"):
        safe_pickle.load(tmp_path / "deep")


def test_what_is_lent_is_not_changed(tmp_path: Path) -> None:
    before = safe_pickle._encode.__defaults__
    state = b"N}X\x0c\x00\x00\x00__defaults__X\x03\x00\x00\x00utfs\x86b."
    (tmp_path / "changing").write_bytes(b"\x80\x04" + _ENCODE + state)
    with pytest.raises(UserError, match="attributes of something that is not an instance"):
        safe_pickle.load(tmp_path / "changing")
    assert safe_pickle._encode.__defaults__ == before


def test_calls_make_no_more_than_the_file_accounts_for(tmp_path: Path) -> None:
    """The same text is made into bytes again and again: 300 times the size of the file."""
    text = b"A" * 100_000
    kept = b"X" + len(text).to_bytes(4, "little") + text + b"q\x00" + _ENCODE + b"q\x01"
    (tmp_path / "many").write_bytes(b"\x80\x04" + kept + b"](" + b"h\x01h\x00\x85R" * 300 + b"e.")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more bytes than the file has"):
            safe_pickle.load(tmp_path / "many")
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_texts_made_by_calls_count_too(tmp_path: Path) -> None:
    scalar = b"cnumpy._core.multiarray\nscalar\nq\x00cnumpy\ndtype\nX\x06\x00\x00\x00U25000\x85Rq\x01"
    data = b"\x80\x04" + scalar + b"B" + (100_000).to_bytes(4, "little") + b"A\0\0\0" * 25_000 + b"q\x02"
    (tmp_path / "many").write_bytes(data + b"](" + b"h\x00h\x01h\x02\x86R" * 300 + b"e.")
    with pytest.raises(UserError, match="more bytes than the file has"):
        safe_pickle.load(tmp_path / "many")


def test_an_array_is_filled_only_once(tmp_path: Path) -> None:
    """NumPy frees the content that an array had before, even if another array shows it."""
    data = pickle.dumps(np.arange(4.0), protocol=2)
    assert data[-4:-3] == b"q" and data.endswith(b"b."), "the state is kept in the memo, then given to the array"
    (tmp_path / "twice").write_bytes(data[:-1] + b"h" + data[-3:-2] + b"b.")
    with pytest.raises(UserError, match="should be an intact pickle"):
        safe_pickle.load(tmp_path / "twice")


@pytest.mark.parametrize("call", [b"cnumpy\ndtype\n", _ENCODE + b"X\x01\x00\x00\x00a"], ids=["dtype", "encoding"])
def test_a_message_does_not_show_lists_without_end(tmp_path: Path, call: bytes) -> None:
    """Ten references at each of thirty levels: 10^30 characters."""
    nested = b"".join(b"](" + (b"h" + bytes([k - 1])) * 10 + b"eq" + bytes([k]) for k in range(1, 31))
    ends = b"h\x1e" + (b"\x85R." if b"dtype" in call else b"\x86R.")
    (tmp_path / "nested").write_bytes(b"\x80\x04]q\x00" + nested + call + ends)
    with pytest.raises(UserError, match="should be an intact pickle"):
        safe_pickle.load(tmp_path / "nested")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"File .*none should be a readable pickle\. Found 'No such file or directory'"):
        safe_pickle.load(tmp_path / "none")
