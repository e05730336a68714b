"""The precision of float32 matrix products, which is one setting of PyTorch for the whole process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

CHOICES = ("tf32", "float32", "bfloat16")
"""Values of `agent.precision`. Networks round their tensors to bfloat16 themselves (`TaskNetwork.computed_in`)."""


@contextlib.contextmanager
def float32_products(level: str) -> Iterator[None]:
    """Give products of float32 matrices this precision inside the block: highest, or high (TF32 where available)."""
    before = torch.get_float32_matmul_precision()
    if level != before:
        torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        if level != before:
            torch.set_float32_matmul_precision(before)


def network_level(precision: str, device: torch.device) -> str:
    """The precision of float32 products in networks, highest or high, for one of `CHOICES`.

    Only GPUs have TF32, so a CPU computes in full float32.
    """
    return "high" if precision == "tf32" and device.type == "cuda" else "highest"


def network_products(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context for networks with one of `CHOICES`: their float32 products have the precision of `network_level`."""
    return float32_products(network_level(precision, device))
