"""The kernels equal the scalar functions they stand for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from metaworld.utils import reward_utils
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mtrl.envs.metaworld.tasks import kernels
from mtrl.envs.metaworld.tasks.base import quaternion


def _rotations() -> NDArray[np.float64]:
    """Random rotations, and every product of quarter turns, where the choice of the pivot is a tie."""
    turns = itertools.product((0, 90, 180, -90), repeat=3)
    quarters = [Rotation.from_euler("xyz", angles, degrees=True) for angles in turns]
    return np.concatenate(
        [Rotation.random(500, rng=np.random.default_rng(0)).as_matrix(), [turn.as_matrix() for turn in quarters]]
    )


def test_quaternion_equals_scipy() -> None:
    for matrix in _rotations():
        found = quaternion(tuple(matrix.reshape(-1).tolist()))
        assert np.abs(found - Rotation.from_matrix(matrix).as_quat()).max() <= 1e-14


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
def test_within_and_tolerance_equal_the_package(sigmoid: Any) -> None:
    for x, margin in zip([*np.linspace(-1, 1, 101), 0.015, 0.05, 0.0], np.linspace(0.01, 0.7, 104), strict=True):
        expected = reward_utils.tolerance(abs(x), (0, 0.05), margin, sigmoid)
        assert kernels.within(abs(x), 0.05, margin, sigmoid) == pytest.approx(expected, rel=0, abs=1e-15)
        expected = reward_utils.tolerance(x, (0.015, 0.05), margin, "long_tail")
        assert kernels.tolerance(x, 0.015, 0.05, margin) == pytest.approx(expected, rel=0, abs=1e-15)


def test_hamacher_equals_the_package_and_is_zero_at_zero() -> None:
    for a, b in itertools.product(np.linspace(0, 1, 21).tolist(), repeat=2):
        assert kernels.hamacher(a, b) == reward_utils.hamacher_product(a, b)


def test_mixed_rounds_as_numpy_does_where_a_float_meets_a_float32() -> None:
    for a, b in np.random.default_rng(0).uniform(size=(64, 2)).tolist():
        assert kernels.mixed(False, lambda x, y: x * 2.0 + y, a, b) == a * 2.0 + b
        found = kernels.mixed(True, lambda x, y: x * 2.0 + y, a, b)
        assert found == float(np.float32(a) * 2.0 + b) and isinstance(found, float)
