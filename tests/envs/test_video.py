"""Pictures and videos: layout, orientation, and what is said where something is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.envs import offscreen
from mtrl.envs.metaworld.rendering import Renderer, rollout_video
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from mtrl.envs.metaworld.suite import MetaWorldSuite
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import Clip, RenderingUnavailable, tile, write_video
from tests.support.videos import frames_in


def plain(value: int, count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), value + i, np.uint8) for i in range(count)]


def writer_or_skip() -> None:
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("PIL")


def backend_or_skip() -> None:
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))


def test_clips_stand_in_a_grid_and_short_ones_wait() -> None:
    pytest.importorskip("PIL")
    clips = [Clip("a", plain(10, 3), True), Clip("b", plain(50, 1), False), Clip("c", plain(90, 2), True)]
    frames = list(tile(clips))
    assert len(frames) == 3 and all(frame.shape == (96, 128, 3) for frame in frames)
    assert [int(frame[40, 5, 0]) for frame in frames] == [10, 11, 12]
    assert [int(frame[40, 70, 0]) for frame in frames] == [50, 50, 50]
    assert [int(frame[90, 5, 0]) for frame in frames] == [90, 91, 91]
    assert all((frame[48:, 64:] == 0).all() for frame in frames)
    assert (frames[0][:16] != frames[-1][:16]).any()


def test_a_video_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    writer_or_skip()
    path = tmp_path / "videos" / "a.mp4"

    def breaking() -> Iterator[np.ndarray]:
        yield from plain(0, 3)
        raise KeyError

    with pytest.raises(KeyError):
        write_video(path, breaking(), 16)
    with pytest.raises(ValueError, match="frames"):
        write_video(path, [], 16)
    assert list(path.parent.iterdir()) == []
    assert write_video(path, plain(0, 20), 16) == path
    assert frames_in(path) == 20 + 16 and list(path.parent.iterdir()) == [path]


def test_a_missing_writer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(RenderingUnavailable, match=r"-e '\.\[video\]'") as caught:
        write_video(tmp_path / "a.mp4", plain(0, 2), 16)
    assert "\n" not in str(caught.value)


def test_missing_graphics_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offscreen_backend.cache_clear()
    monkeypatch.setattr(offscreen, "_PROBE", "raise ImportError({backend!r})")
    monkeypatch.setattr(offscreen, "_BACKENDS", ("egl", "osmesa"))
    with pytest.raises(RenderingUnavailable, match=r"libosmesa6.*libegl1") as caught:
        offscreen_backend()
    assert "\n" not in str(caught.value)


def test_the_robot_stands_upright_on_the_left() -> None:
    """The sky is above, the table's wood in the middle; the red arm comes from the left of the picture."""
    backend_or_skip()
    suite = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["drawer-close-v3"], engine="package"))
    envs: Any = suite.make_envs(1, 1)
    envs.reset()
    with Renderer(envs.envs[0].model, 160) as renderer:
        picture = renderer.frame(envs.envs[0].data).astype(int)
    red = (picture[..., 0] > 100) & (picture[..., 1] < 60)
    assert red.sum() > 200 and np.argwhere(red)[:, 1].mean() < 80
    sky = picture[:30].reshape(-1, 3)
    assert (np.abs(sky - sky.mean(0)) < 12).all() and picture[100:].std() > 30


def test_a_rollout_becomes_a_video(tmp_path: Path) -> None:
    writer_or_skip()
    backend_or_skip()
    suite = MetaWorldSuite(MetaWorldConfig("custom", tasks=["reach-v3", "push-v3"], horizon=12))
    seen: list[tuple[int, ...]] = []

    def policy(observation: np.ndarray) -> np.ndarray:
        seen.append(observation.shape)
        return np.zeros((*observation.shape[:2], 4))

    path = tmp_path / "push.mp4"
    envs = suite.first_episodes(0, ["push-v3"])
    assert rollout_video(policy, envs, path, tasks=suite.tasks, size=64) == {"push-v3": False}
    assert seen == [(2, 1, 39)] * 12 and frames_in(path) == 7 + 16, "every second step and the last, which stays"
    suite.film(policy, path, 0)  # what a run calls, of all of its tasks
    assert frames_in(path) == 7 + 16
    with pytest.raises(UserError, match="multiple of 16"):
        rollout_video(policy, envs, path, tasks=suite.tasks, size=100)
    with pytest.raises(UserError, match="among reach-v3, push-v3"):
        suite.first_episodes(0, ["door-open-v3"])
    with pytest.raises(UserError, match="among reach-v3"):
        rollout_video(policy, envs, path, tasks=["reach-v3"])
