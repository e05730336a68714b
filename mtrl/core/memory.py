"""Memory: how the C library manages the large arrays of updates, and how much memory is free."""

from __future__ import annotations

import contextlib
import ctypes
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
    """Let the process reuse the memory of freed arrays of up to 1 GiB instead of returning it to the system.

    An update of 50 tasks allocates tens of arrays of 20 to 60 MB. Above 32 MB, glibc maps new memory for each, and the
    system zeroes every page of it, which takes as long as the arithmetic. Returns whether this worked; without glibc,
    nothing changes.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(mallopt(option, _KEEP) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def return_freed_memory() -> bool:
    """Return freed memory to the system. Returns whether any was returned.

    This is for use after rare work with large arrays that are only partly written, such as the environments of an
    evaluation. With `keep_freed_memory`, each such array would be placed elsewhere in the kept memory and touch further
    pages, so the process would keep growing.
    """
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Any:
    """A function of the C library; None if it has no such function or the system is not Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def check_content(path: Path, size: int) -> None:
    """Refuse a compressed file whose content is far larger than the file, before it takes memory.

    size: bytes of the decompressed content.

    Raises:
        ValueError: `size` is over 16 MiB plus 100 times the file's size. Real data sets stay below a tenth of that.
    """
    most = (16 << 20) + 100 * path.stat().st_size
    if size > most:
        raise ValueError(f"{size >> 20} MiB or more in {path.stat().st_size} bytes")


def peak_bytes() -> int:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def require_room(what: str, needed: float, found: float | None, where: str) -> None:
    """Check, before anything is allocated, that there is enough memory.

    Args:
        what: what needs the memory, for the message.
        needed: the bytes that it needs.
        found: the free bytes; None if unknown, which counts as enough.
        where: whose memory it is, for the message.

    Raises:
        UserError: there is not enough memory. The message gives both numbers in gigabytes.
    """
    if found is not None and needed > found:
        raise expected(what, f"one that fits {where}: it needs {_gigabytes(needed)}", f"{_gigabytes(found)} free")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e9:.2g} GB"


def free_bytes(device: torch.device) -> int | None:
    """The free bytes of a device. On the CPU, the limits of the process's control groups count as well.

    None if unknown: for devices other than CPUs and CUDA GPUs, and for CPUs on systems other than Linux.
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
    """The free bytes under each memory limit of the process's control groups (cgroups v1 and v2)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup", controllers)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # the group is not visible from inside, or has no limit
                limit, usage = (int((folder / name).read_text()) for name in names)
                facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cached = facts.get("total_inactive_file", facts.get("inactive_file", "0"))  # of all groups inside, too
                yield max(0, limit - usage + int(cached))
            if folder == root:
                break
