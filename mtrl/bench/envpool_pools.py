"""EnvPool's Meta-World in C++ (https://github.com/sail-sg/envpool), for comparisons of speed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.core.cores import available_cores
from mtrl.core.memory import return_freed_memory

FACTS = {"mujoco": "3.6.0", "goals": "anew"}
"""How EnvPool 1.2.5 differs from Meta-World: it contains its own MuJoCo, and draws a new goal for each episode."""


def envpool_installed() -> bool:
    return importlib.util.find_spec("envpool") is not None


class EnvPools:
    """A pool of N environments for each of T tasks, since a pool has only one task.

    A pool has one thread per environment, but at most one per core.

    Args:
        tasks: T names, such as reach-v3.
        copies: N.
    """

    def __init__(self, tasks: Sequence[str], copies: int) -> None:
        self.copies = copies
        self._pools: list[Any] = [self._make(task, 1000 * t) for t, task in enumerate(tasks)]
        for pool in self._pools:
            pool.reset()

    def _make(self, task: str, seed: int) -> Any:
        name = task.removesuffix("-v3").title().replace("-", "")
        threads = min(self.copies, available_cores())
        options = {"num_envs": self.copies, "num_threads": threads, "seed": seed, "partially_observable": False}
        return importlib.import_module("envpool").make(f"MetaWorld/{name}-v3", env_type="gymnasium", **options)

    def __len__(self) -> int:
        return len(self._pools)

    def step(self, actions: np.ndarray) -> list[np.ndarray]:
        """Step one pool after the other with actions (T, N, 4). Returns T arrays of observations (N, 39)."""
        return [pool.step(now)[0] for pool, now in zip(self._pools, actions, strict=True)]

    def step_overlapped(self, actions: np.ndarray) -> list[np.ndarray]:
        """The same, with all pools stepping at the same time."""
        for pool, now in zip(self._pools, actions, strict=True):
            pool.send(now)
        return [pool.recv()[0] for pool in self._pools]

    def close(self) -> None:
        self._pools.clear()
        return_freed_memory()  # otherwise the process keeps 20 MB for each environment
