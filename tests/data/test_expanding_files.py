"""Small files that stand for gigabytes are refused before they take memory."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtrl.core.errors import UserError
from mtrl.core.records import read_yaml
from mtrl.data.image_files import mnist, svhn
from mtrl.data.png import read_png, write_png
from mtrl.networks.care import read_descriptions
from tests.support import image_files as written

NOUGHTS = bytes(100 << 20)


def squeezed(root: Path) -> Callable[[], object]:
    written.mnist(root, ".gz")
    (root / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(NOUGHTS))
    return lambda: mnist(root)


def matrices(root: Path) -> Callable[[], object]:
    pytest.importorskip("scipy.io")
    written.svhn(root)
    stream = zlib.compress(struct.pack("<2I", 14, len(NOUGHTS)) + NOUGHTS)
    path = root / "svhn" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<2I", 15, len(stream)) + stream)
    return lambda: svhn(root)


def picture(root: Path) -> Callable[[], object]:
    """Only a header, for 8,000 times 8,000 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    header = b"IHDR" + struct.pack(">2I", 8000, 8000) + b"\x08\x02\0\0\0"
    content = stream.getvalue()
    checked = header + struct.pack(">I", zlib.crc32(header))
    (root / "wide.png").write_bytes(content[:12] + checked + content[12 + len(checked) :])
    return lambda: read_png(root / "wide.png")


def array(root: Path) -> Callable[[], object]:
    file = root / "long.npy"
    np.save(file, np.zeros((2, 3)))
    file.write_bytes(file.read_bytes().replace(b"(2, 3), }          ", b"(99999999999, 3), }"))
    return lambda: read_descriptions(file)


def aliases(root: Path) -> Callable[[], object]:
    """Ten times ten times ten ...: 10^12 values in all."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    (root / "config.yaml").write_text("\n".join(lines))
    return lambda: read_yaml(root / "config.yaml", {})


@pytest.mark.parametrize("make", [squeezed, matrices, picture, array, aliases])
def test_a_small_file_takes_little_memory(make: Callable[[Path], Callable[[], object]], tmp_path: Path) -> None:
    read = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"MiB or more|aliases in aliases|\.npy"):
            read()
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_picture_with_16_bits_per_channel_is_refused(tmp_path: Path) -> None:
    """Pillow would read it as 8 bits, and depths that are packed into colours would be wrong."""
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(18)) for _ in range(3)))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 16, 2, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UserError, match=r"8 bits per channel.* with 16 bits"):
        read_png(tmp_path / "deep.png")


def test_a_large_picture_of_one_colour_is_no_such_file(tmp_path: Path) -> None:
    write_png(tmp_path / "black.png", np.zeros((1024, 1024, 3), np.uint8))
    assert read_png(tmp_path / "black.png").shape == (1024, 1024, 3)
