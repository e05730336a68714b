"""CPU cores, threads and devices."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mtrl.core.errors import expected

if TYPE_CHECKING:
    import torch

A = TypeVar("A")
B = TypeVar("B")
_DEVICES = ("cpu", "cuda", "mps", "xpu")


def available_cores() -> int:
    """The number of cores on which this process may run, or of all cores where the system does not say; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def free_cores(count: int) -> Iterator[list[int]]:
    """Reserve `count` cores inside the block, and yield their numbers.

    Yields [] if fewer cores are free, if `count` is all cores or more, or if the system cannot pin processes to cores.
    A lock on a file per core keeps the user's other mtrl processes away. The system releases it if the process dies.
    """
    if not hasattr(os, "sched_getaffinity") or count >= available_cores():
        yield []
        return
    place = Path(tempfile.gettempdir()) / f"mtrl-cores-{os.getuid()}"
    place.mkdir(exist_ok=True)
    with ExitStack() as stack:
        found = list[int]()
        for core in sorted(os.sched_getaffinity(0)):
            file = stack.enter_context((place / str(core)).open("w"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(core)
            if len(found) == count:
                break
        if len(found) < count:
            stack.close()
            found.clear()
        yield found


def usable_device(name: str, option: str = "Option `device`") -> torch.device:
    """The device of this name; for "auto", a CUDA device if there is one, otherwise the CPU.

    option: what the error message calls the option.

    Raises:
        UserError: PyTorch cannot compute on this device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    what = "auto, cpu, or a GPU that PyTorch sees"
    try:
        if torch.device(name).type in _DEVICES:
            return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise expected(option, what, name) from error
    raise expected(option, what, name)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside the block, PyTorch's operations use `count` threads.

    One thread is best for the small matrix products of acting. Further threads would busy-wait for the next operation,
    on the cores that step the environments next.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Run both functions at the same time, each with half of PyTorch's threads, or in sequence if it has only one.

    Two independent chains of small operations use two cores better than operations that are each split between the
    cores. Neither function may change what the other reads, draw from the same generator, or change settings of the
    process.
    """
    import torch

    if torch.get_num_threads() < 2:
        return first(), second()
    half, tracked = torch.get_num_threads() // 2, torch.is_grad_enabled()

    def prepare() -> None:  # both settings are per thread
        torch.set_num_threads(half)
        torch.set_grad_enabled(tracked)

    with torch_threads(half), ThreadPoolExecutor(1, initializer=prepare) as pool:
        other = pool.submit(second)
        return first(), other.result()
