"""The precision of float32 products, which PyTorch keeps as one setting of the whole process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

CHOICES = ("tf32", "float32", "bfloat16")


@contextlib.contextmanager
def float32_products(level: str) -> Iterator[None]:
    """Inside, products of float32 matrices have this precision: highest, or high, which is TF32 where there is it."""
    before = torch.get_float32_matmul_precision()
    if level != before:
        torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        if level != before:
            torch.set_float32_matmul_precision(before)


def network_level(precision: str, device: torch.device) -> str:
    """The precision of float32 products in networks, for one of `CHOICES`. Only GPUs have TF32; a CPU computes in full
    float32."""
    return "high" if precision == "tf32" and device.type == "cuda" else "highest"


def network_products(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Where networks are computed with one of `CHOICES`."""
    return float32_products(network_level(precision, device))
