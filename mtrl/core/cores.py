"""How many cores there are to use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available_cores() -> int:
    """Those that this process may run on, where the system tells; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch's operations here run in the caller's thread alone.

    For the small products of acting: PyTorch's other threads wait actively for the next operation, and would hold the
    cores that the environments are stepped on next.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
