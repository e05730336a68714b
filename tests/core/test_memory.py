"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from mtrl.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    sys.exit(3) if not keep_freed_memory() else None
for _ in range(20):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        pytest.skip("this C library has no mallopt")
    return int(ran.stdout)


def test_large_arrays_are_mapped_once() -> None:
    """Ten arrays of 64 MB: without the setting each is mapped and zeroed page by page."""
    assert page_faults("keep") < 0.1 * page_faults("default")
