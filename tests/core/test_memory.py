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


GROWTH = """
import re, sys
import numpy as np
from mtrl.core.memory import keep_freed_memory, return_freed_memory
def own() -> float:
    return int(re.search(r"Anonymous: +(\\d+)", open("/proc/self/smaps_rollup").read())[1]) / 1e3
keep_freed_memory()
generator, levels, kept = np.random.default_rng(0), [], []
for _ in range(12):
    rare = [np.empty(3_000_000) for _ in range(20)]  # 24 MB each, of which 0.8 are used
    kept.append(np.empty(int(generator.integers(1_000, 100_000))))
    for array in rare:
        array[int(generator.integers(2_900_000)) :][:100_000] = 1
    del rare, array
    if sys.argv[1] == "return" and not return_freed_memory():
        sys.exit(3)
    levels.append(own())
print(levels[-1] - levels[0])
"""


def growth(mode: str) -> float:
    """Megabytes by which a process has grown after eleven more rounds of rare work."""
    ran = subprocess.run([sys.executable, "-c", GROWTH, mode], capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        pytest.skip("this C library has no malloc_trim")
    return float(ran.stdout)


def test_rare_work_with_arrays_used_in_part_leaves_the_process_as_large_as_it_was() -> None:
    """Without return_freed_memory the process grows by every page that such an array has used in some round."""
    assert growth("keep") > 50
    assert growth("return") < 5
