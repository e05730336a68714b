"""What there is to compute on: cores and devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mtrl.core.errors import expected

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Those that this process may run on, where the system tells; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_device(name: str, option: str = "Option `device`") -> torch.device:
    """The device of this name; for "auto" a GPU where there is one.

    Raises:
        UserError: PyTorch cannot compute there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise expected(option, "auto, cpu, or a GPU that PyTorch sees", name) from error


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
