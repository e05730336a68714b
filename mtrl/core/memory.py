"""Memory: how the C library handles the large arrays that every update allocates and frees, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl.core.errors import expected

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process reuse arrays of up to 1 GiB instead of giving them back to the system; True where it does.

    An update at T = 50 allocates tens of arrays of 20 to 60 MB. Above 32 MB glibc maps each of them anew, and the
    system zeroes every page of it: as much time as the arithmetic on it. Elsewhere than with glibc nothing changes.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(mallopt(option, _KEEP) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def return_freed_memory() -> bool:
    """Give the system what is freed by now; True where it could.

    For after rare work with large arrays that it uses in part, such as the environments of an evaluation. They lie in
    another place each time, where arrays kept by `keep_freed_memory` are free, and the process would grow with every
    page that one of them has used so far.
    """
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Any:
    """A function of the C library, if it is glibc's."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


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


def require_room(what: str, needed: float, found: float | None, where: str) -> None:
    """Refuse, before anything is allocated, what needs more bytes than there are.

    Args:
        found: None where it is not known.

    Raises:
        UserError: it names both in gigabytes.
    """
    if found is not None and needed > found:
        raise expected(what, f"one that fits {where}: it needs {_gigabytes(needed)}", f"{_gigabytes(found)} free")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e9:.2g} GB"


def free_bytes(device: torch.device) -> int | None:
    """The memory that can still be had there: on the CPU what the system and the process's control groups leave.

    None where it is not known: on other devices, and on systems other than Linux.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        system = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return min([system, *_left_in_groups()])
    except (OSError, StopIteration):
        return None


def _left_in_groups() -> Iterator[int]:
    """What each limit of the process's control groups leaves (cgroups, of both versions)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup", controllers)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such group is seen from inside, or there is no limit
                limit, usage = (int((folder / name).read_text()) for name in names)
                cached = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                yield max(0, limit - usage + (int(cached[1]) if cached else 0))
            if folder == root:
                break
