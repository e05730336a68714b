"""A small Ray cluster on this machine, and the processes that belong to it."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE

NODES = 2
"""With one core each."""
# All on the loopback, as Ray decides when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
STARTS = 4
"""How often a cluster's start is tried."""
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # Ray kills workers where the machine has little memory left, whoever has taken it.
    "RAY_memory_monitor_refresh_ms": "0",
    # Seconds, on a machine that does much else.
    "RAY_raylet_start_wait_time_s": "90",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    # How often in a row a node may be late by ten seconds to say that it lives.
    "RAY_health_check_failure_threshold": "30",
}


@contextlib.contextmanager
def cluster(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
    """The address of a cluster on the loopback, of which no process is left at the end.

    folder: for temporary files of its processes, so that their reservations of cores are not those of other programs.
    """
    mark = f"MTRL_TEST_CLUSTER={uuid.uuid4()}"
    # Ray's own have to stay where names are short, as they hold sockets.
    places = {"RAY_TMPDIR": tempfile.gettempdir(), "TMPDIR": str(folder)}
    for name, value in {**VARIABLES, **places, **dict([mark.split("=")])}.items():
        monkeypatch.setenv(name, value)
    found = _started(mark)
    try:
        yield str(found.address)
    finally:
        found.shutdown()
    until = time.monotonic() + PATIENCE
    while (left := _others(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, [command(pid) for pid in left]


def _started(mark: str) -> Any:
    """A cluster. Another one is tried where Ray gives a node up, since its helpers took more than 15 seconds to start
    (https://github.com/ray-project/ray/issues/65983)."""
    for _ in range(STARTS - 1):
        try:
            return _start()
        except Exception:  # Ray raises nothing more specific
            for pid in _others(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    return _start()


def _start() -> Any:
    from ray.cluster_utils import Cluster

    made, options = Cluster(), {"num_cpus": 1, "object_store_memory": 100 << 20, "wait": False}
    made.add_node(include_dashboard=False, dashboard_agent_listen_port=0, **options)
    for _ in range(NODES - 1):
        made.add_node(**options)
    made.wait_for_nodes(PATIENCE)
    return made


def _others(mark: str) -> list[int]:
    return [pid for pid in processes(mark) if pid != os.getpid()]


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
    return int(_state(pid)[1])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Inside the block a process does nothing.

    Raises:
        ProcessLookupError: it has ended.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        while (state := _state(pid)[0]) != "T":
            if state in "ZX":
                raise ProcessLookupError(pid)
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> list[str]:
    """What Linux says about a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
