"""Steps of vector environments, kept and compared bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

Steps = list[dict[str, np.ndarray]]


def draw_actions(steps: int, tasks: int, copies: int, seed: int = 0) -> np.ndarray:
    """(steps, T, N, 4), some of them beyond the bounds."""
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, tasks, copies, 4)).astype(np.float32)


def run(envs: Any, actions: np.ndarray) -> Steps:
    """What each step returned, copied."""
    return [{name: np.array(value) for name, value in vars(envs.step(action)).items()} for action in actions]


def assert_same(one: Steps, two: Steps) -> None:
    for step, (left, right) in enumerate(zip(one, two, strict=True)):
        for name in left:
            assert np.array_equal(left[name], right[name]), f"{name} differs at step {step}"
