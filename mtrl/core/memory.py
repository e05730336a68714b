"""How the C library handles the large arrays that every update allocates and frees."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process reuse arrays of up to 1 GiB instead of giving them back to the system; True where it does.

    An update at T = 50 allocates tens of arrays of 20 to 60 MB. Above 32 MB glibc maps each of them anew, and the
    system zeroes every page of it: as much time as the arithmetic on it. Elsewhere than with glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, _KEEP) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def check_content(path: Path, size: int) -> None:
    """Refuse a compressed file of which far more would come than it has bytes, before it takes memory.

    Raises:
        ValueError: more than 16 MiB and 100 times its own size. Pictures and data sets have less than a tenth of it.
    """
    most = (16 << 20) + 100 * path.stat().st_size
    if size > most:
        raise ValueError(f"{size >> 20} MiB or more in {path.stat().st_size} bytes")


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
