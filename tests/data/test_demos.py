"""Keyframes by the ARM heuristic, quaternions, depth and points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtrl.core.errors import UserError
from mtrl.data.demos import CameraModel, Frame, Image, canonical_quaternion, decision_frames, keyframes
from mtrl.data.depth import pack_depth, point_cloud, shrink, unpack_depth

STEPS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)
"""Of each frame: whether the arm moves, whether the gripper is open."""


def frames(steps: list[tuple[bool, bool]]) -> list[Frame]:
    return [Frame(np.zeros(7), float(o), np.full(7, 0.5 if m else 0.01), np.zeros(7)) for m, o in steps]


def reference(steps: list[tuple[bool, bool]]) -> list[int]:
    """The rules of the heuristic, one after another, on plain lists."""
    moves, grips = zip(*steps, strict=True)
    last, found, wait = len(steps) - 1, [], 0
    for i in range(len(steps)):
        around = [grips[max(i - 2, 0)], grips[max(i - 1, 0)], grips[i], grips[min(i + 1, last)]]
        still = not moves[i] and i < last - 1 and (all(around) or not any(around)) and wait <= 0
        wait = 4 if still else wait - 1
        if i and (grips[i] is not grips[i - 1] or i == last or still):
            found += [i]
    return found[:-2] + found[-1:] if len(found) > 1 and found[-2] == last - 1 else found


@given(STEPS)
def test_keyframes_follow_the_heuristic(steps: list[tuple[bool, bool]]) -> None:
    found = keyframes(frames(steps))
    assert found == reference(steps)
    assert found == sorted(set(found)) and (len(steps) == 1 or found[-1] == len(steps) - 1)


def test_a_grasp_and_a_stop_are_keyframes() -> None:
    """Move, stop at 5, close at 10, move, end at 15: a stop within 4 frames of another does not count."""
    steps = [(i not in (5, 6, 7), i < 10) for i in range(16)]
    assert keyframes(frames(steps)) == [5, 10, 15]
    assert decision_frames([5, 10, 15]) == [0, 5, 10]


def test_canonical_quaternions_are_unit_with_w_at_least_0() -> None:
    found = canonical_quaternion(np.array([[0, 0, 3.0, -4.0], [0, 2.0, 0, 0]]))
    assert np.allclose(found, [[0, 0, -0.6, 0.8], [0, 1, 0, 0]])


@given(st.integers(0, 2**24 - 1), st.floats(0.01, 0.5), st.floats(1.0, 10.0))
def test_packed_depth_is_the_formula_and_comes_back(value: int, near: float, far: float) -> None:
    colours = np.array([[[value >> 16, value >> 8 & 255, value & 255]]], np.uint8)
    red, green, blue = (int(c) for c in colours[0, 0])
    depth = unpack_depth(colours, near, far)
    expected = near + (65536 * red + 256 * green + blue) / (2**24 - 1) * (far - near)
    assert depth[0, 0] == pytest.approx(expected, rel=1e-6)
    exact = np.array([[near + value / (2**24 - 1) * (far - near)]])
    assert np.array_equal(pack_depth(exact, near, far), colours)


def by_hand(depth: np.ndarray, k: np.ndarray, e: np.ndarray) -> np.ndarray:
    points = np.zeros((*depth.shape, 3))
    for v, u in np.ndindex(*depth.shape):
        z = depth[v, u]
        local = np.array([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z])
        points[v, u] = e[:3, :3] @ local + e[:3, 3]
    return points


def pose(rng: np.random.Generator) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def test_points_are_the_formula_over_any_leading_axes() -> None:
    rng = np.random.default_rng(0)
    depth, k = rng.uniform(0.3, 2, (2, 3, 5, 4)), np.array([[-7.0, 0, 2.5], [0, -6.0, 1.5], [0, 0, 1]])
    poses = np.stack([[pose(rng) for _ in range(3)] for _ in range(2)])
    found = point_cloud(torch.from_numpy(depth), torch.from_numpy(k).expand(2, 3, 3, 3), torch.from_numpy(poses))
    for index in np.ndindex(2, 3):
        assert np.allclose(found[index].permute(1, 2, 0), by_hand(depth[index], k, poses[index]), atol=1e-12)


def test_a_smaller_picture_has_the_points_of_the_larger_one() -> None:
    rng = np.random.default_rng(1)
    depth, k = rng.uniform(0.3, 2, (16, 16)), np.array([[-20.0, 0, 8], [0, -20.0, 8], [0, 0, 1]])
    rgb = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    image, camera = shrink(Image(rgb, depth), CameraModel(pose(rng), k, 0.1, 3), 4)
    assert image.rgb.shape == (4, 4, 3) and image.depth is not None
    whole, small = by_hand(depth, k, camera.extrinsics), by_hand(image.depth, camera.intrinsics, camera.extrinsics)
    assert np.allclose(small, whole[2::4, 2::4])
    assert np.abs(image.rgb[1, 2] - rgb[4:8, 8:12].mean((0, 1))).max() <= 0.5


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 5 pixels"):
        shrink(Image(np.zeros((16, 16, 3), np.uint8)), CameraModel(np.eye(4), np.eye(3), 0.1, 1), 5)
