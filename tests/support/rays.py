"""A small Ray cluster on this machine, and the processes that belong to it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NODES = 2
"""With one core each."""
# All on the loopback, as Ray decides when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


@contextlib.contextmanager
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster on the loopback, of which no process is left at the end."""
    mark = f"MTRL_TEST_CLUSTER={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # seconds, on a machine that does much else
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            found.add_node(**options)
        yield str(found.address)
    finally:
        found.shutdown()
    until = time.monotonic() + 60
    while (left := [pid for pid in processes(mark) if pid != os.getpid()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, [command(pid) for pid in left]


def processes(mark: str) -> list[int]:
    """Those that were started with a variable NAME=value in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (place / "environ").read_bytes().split(b"\0") and command(int(place.name)):
                found.append(int(place.name))
    return found


def command(pid: int) -> str:
    """The command line of a process, "" where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def parent(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
