"""The cache holds all that the demonstrations hold, or nothing; priorities, and shifts of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.data.demo_cache import CacheWriter, DemoCache, samples
from mtrl.data.demos import decision_frames, keyframes
from mtrl.data.depth import point_cloud
from mtrl.data.priority import Priorities, draw_uniform
from mtrl.data.shift import shifted
from tests.support.keyframe_toys import CAMERAS, SIZE, TASKS, demo, write_cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    write_cache(path, 3)
    return path


def test_a_sample_is_a_decision_frame_and_the_keyframe_after_it(folder: Path) -> None:
    made = DemoCache(folder, TASKS, CAMERAS, SIZE)
    assert made.counts.tolist() == [6, 6] and made.stages.tolist() == [2, 2]
    rng = np.random.default_rng(0)
    demos = [demo(0, rng) for _ in range(3)]
    batch = made.batch(torch.arange(6).expand(2, 6))
    for k, (d, stage) in enumerate((d, s) for d in demos for s in range(2)):
        keys = keyframes(d)
        now, target = d.frames[decision_frames(keys)[stage]], d.frames[keys[stage]]
        seen = batch.observation
        assert seen.stage[0, k] == stage
        assert np.array_equal(seen.rgb[0, k, 1], now.images[CAMERAS[1]].rgb)
        assert np.allclose(seen.depth[0, k, 0], np.asarray(now.images[CAMERAS[0]].depth))
        assert np.allclose(seen.extrinsics[0, k, 0], now.cameras[CAMERAS[0]].extrinsics)
        assert np.allclose(seen.intrinsics[0, k, 0], now.cameras[CAMERAS[0]].intrinsics)
        assert np.allclose(seen.pose[0, k], now.gripper_pose) and seen.gripper[0, k] == now.gripper_open
        assert np.allclose(batch.target_pose[0, k], target.gripper_pose)
        assert batch.target_gripper[0, k] == target.gripper_open
    assert (batch.importance == 1).all()


def test_chosen_cameras_and_the_first_demonstrations_only(folder: Path) -> None:
    whole, made = DemoCache(folder, TASKS, CAMERAS, SIZE), DemoCache(folder, TASKS, CAMERAS[1:], SIZE, demos=2)
    assert made.counts.tolist() == [4, 4]
    index = torch.tensor([[0, 3], [1, 2]])
    one, all_of_them = (cache.batch(index).observation for cache in (made, whole))
    assert torch.equal(one.rgb, all_of_them.rgb[:, :, 1:]) and torch.equal(one.depth, all_of_them.depth[:, :, 1:])


def test_what_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(KeyboardInterrupt), CacheWriter(tmp_path / "new" / "toy", "red", CAMERAS, SIZE) as writer:
        writer.add(demo(0, rng))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cameras": ("wrist",)},
            "red.* should be with cameras wrist at 16 pixels. Found 'left_shoulder, front at 16'",
        ),
        ({"size": 32}, "should be with cameras left_shoulder, front at 32 pixels"),
        ({"demos": 4}, "should be of 4 demonstrations. Found 3"),
        ({"tasks": ("green",)}, "Demonstrations of green should lie in"),
    ],
)
def test_a_cache_that_does_not_fit_is_one_line(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DemoCache(**{"folder": folder, "tasks": TASKS, "cameras": CAMERAS, "size": SIZE, **options})


def test_a_short_file_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path, 1)
    path = tmp_path / "red" / "depth.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"File .*red/depth\.bin should be of"):
        DemoCache(tmp_path, TASKS, CAMERAS, SIZE)


def test_a_camera_without_a_picture_is_named() -> None:
    made = demo(0, np.random.default_rng(0))
    del made.frames[0].images["front"]
    with pytest.raises(UserError, match="Camera front should be in the frame"):
        samples(made, CAMERAS, SIZE)


def test_moved_pictures_keep_their_points(folder: Path) -> None:
    seen = DemoCache(folder, TASKS, CAMERAS, SIZE).batch(torch.zeros(2, 3, dtype=torch.int64)).observation
    moved = shifted(seen, 3, torch.Generator().manual_seed(0))
    before, after = (point_cloud(s.depth, s.intrinsics, s.extrinsics) for s in (seen, moved))
    inner = slice(3, -3)
    for index in np.ndindex(2, 3, len(CAMERAS)):
        old = {tuple(np.round(p, 4)): tuple(c) for p, c in _pixels(before[index], seen.rgb[index])}
        new = [
            (tuple(np.round(p, 4)), tuple(c))
            for p, c in _pixels(after[index][:, inner, inner], moved.rgb[index][inner, inner])
        ]
        assert all(old[point] == colour for point, colour in new)
    assert not torch.equal(moved.rgb, seen.rgb)


def _pixels(points: torch.Tensor, rgb: torch.Tensor) -> zip:
    return zip(points.flatten(1).T.double().numpy() + 0.0, rgb.flatten(0, 1).tolist(), strict=True)


def test_uniform_draws_reach_every_sample_of_each_task_and_no_other() -> None:
    drawn = draw_uniform(torch.tensor([3, 7]), 500, torch.Generator().manual_seed(0))
    assert [sorted(set(row.tolist())) for row in drawn] == [list(range(3)), list(range(7))]


def test_priorities_are_schauls_within_each_task() -> None:
    """P(i) = p_i^α / Σ p^α; factors (n P)^−β over the largest; a task's losses leave the others' alone."""
    made = Priorities(torch.tensor([4, 2]), alpha=0.7, beta=0.5, epsilon=0.0)
    losses = torch.tensor([[0.1, 2.0, 0.5, 1.0], [3.0, 1.0, 3.0, 1.0]])
    made.update(torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]]), losses)
    generator = torch.Generator().manual_seed(0)
    index, factor = made.draw(40_000, generator)
    for task, values in enumerate(([0.1, 2.0, 0.5, 1.0], [3.0, 1.0])):
        p = np.array(values) ** 0.7 / (np.array(values) ** 0.7).sum()
        share = np.bincount(index[task].numpy(), minlength=len(values)) / index.shape[1]
        assert np.allclose(share, p, atol=0.01)
        expected = (len(values) * p) ** -0.5
        assert np.allclose(factor[task], (expected / expected.max())[index[task].numpy()], rtol=1e-5)
