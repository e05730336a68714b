"""The kernels equal the scalar functions they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from metaworld.utils import reward_utils
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mtrl.envs.metaworld.tasks import kernels


def _rotations() -> NDArray[np.float64]:
    """Random rotations, and every product of quarter turns, where the choice of the pivot is a tie."""
    turns = itertools.product((0, 90, 180, -90), repeat=3)
    quarters = [Rotation.from_euler("xyz", angles, degrees=True) for angles in turns]
    return np.concatenate(
        [Rotation.random(500, rng=np.random.default_rng(0)).as_matrix(), [turn.as_matrix() for turn in quarters]]
    )


def test_quaternion_equals_scipy() -> None:
    matrices = _rotations()
    found = kernels.quaternion(matrices.reshape(-1, 9))
    expected = np.array([Rotation.from_matrix(matrix).as_quat() for matrix in matrices])
    assert np.abs(found - expected).max() <= 1e-14
    paired = kernels.quaternion(matrices[:40].reshape(2, 20, 9))
    assert np.array_equal(paired.reshape(40, 4), found[:40])


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
def test_tolerance_equals_the_package(sigmoid) -> None:
    x = np.concatenate([np.linspace(-1, 1, 101), [0.015, 0.05, 0.0]])
    margin = np.linspace(0.01, 0.7, len(x))
    expected = [reward_utils.tolerance(a, (0.015, 0.05), m, sigmoid) for a, m in zip(x, margin, strict=True)]
    found = kernels.tolerance(x, (0.015, 0.05), margin, sigmoid)
    assert np.allclose(found, expected, rtol=0, atol=1e-15)
    lengths = abs(x)
    expected = [reward_utils.tolerance(a, (0, 0.05), 0.2, sigmoid) for a in lengths]
    assert np.allclose(kernels.within(lengths, 0.05, 0.2, sigmoid), expected, rtol=0, atol=1e-15)


def test_hamacher_equals_the_package_and_is_zero_at_zero() -> None:
    a, b = np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 21))
    expected = np.vectorize(reward_utils.hamacher_product, otypes=[float])(a, b)
    assert np.array_equal(kernels.hamacher(a, b), expected)


def test_mixed_rounds_only_the_marked_copies() -> None:
    a, b = np.random.default_rng(0).uniform(size=(2, 64))
    single = np.arange(64) % 2 == 0
    found = kernels.mixed(single, lambda x, y: x * 2.0 + y, a, b)
    for index in range(64):
        scalar = np.float32(a[index]) if single[index] else float(a[index])
        assert found[index] == float(scalar * 2.0 + float(b[index]))
