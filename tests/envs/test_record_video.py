"""Gymnasium's own recorders work on our environments, one copy or many."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from gymnasium.wrappers.vector import RecordVideo as RecordVectorVideo

import mtrl.envs.metaworld.vector
import mtrl.envs.pushing.gym_env  # noqa: F401
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable

pytestmark = pytest.mark.filterwarnings("ignore:.*(last frame of the episode|Overwriting existing videos)")
SIZE = {"render_mode": "rgb_array", "width": 64, "height": 48, "max_episode_steps": 4}


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the recorders hand to MoviePy, which would encode it: the frames (K, H, W, 3) of each video."""
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    found: list[np.ndarray] = []

    class ImageSequenceClip:
        def __init__(self, frames: list[np.ndarray], fps: float) -> None:
            assert fps > 0
            found.append(np.array(frames))

        def write_videofile(self, path: str, **_: Any) -> None: ...

    module: Any = ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = ImageSequenceClip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.mark.parametrize(("mode", "frames"), [(AutoresetMode.SAME_STEP, 4), (AutoresetMode.NEXT_STEP, 5)])
def test_a_video_of_all_copies_has_each_step_of_the_episodes(
    mode: AutoresetMode, frames: int, clips: list[np.ndarray], tmp_path: Path
) -> None:
    tasks = ["reach-v3", "push-v3"]
    made: Any = gymnasium.make_vec("mtrl/custom-mt-envs-v3", envs_list=tasks, threads=1, autoreset_mode=mode, **SIZE)
    envs = RecordVectorVideo(RecordVectorStatistics(made), str(tmp_path), episode_trigger=lambda _: True)
    envs.reset(seed=1)
    lengths = []
    for _ in range(2 * frames):
        info = envs.step(envs.action_space.sample())[-1]
        if "episode" in info:
            lengths.append(info["episode"]["l"].tolist())
    envs.close()
    assert lengths[:2] == [[4, 4], [4, 4]]
    assert [clip.shape for clip in clips[:2]] == [(frames, 48, 128, 3)] * 2
    assert (clips[0][1:] != clips[0][:-1]).any((1, 2, 3)).all(), "it moves"


@pytest.mark.parametrize(
    ("name", "options"), [("mtrl/MT1-v3", {"env_name": "reach-v3", **SIZE}), ("mtrl/GoalPush-v0", {})]
)
def test_a_video_of_one_copy_has_each_step_of_an_episode(
    name: str, options: dict[str, Any], clips: list[np.ndarray], tmp_path: Path
) -> None:
    made: Any = gymnasium.make(name, **{"render_mode": "rgb_array", **options})
    env = RecordEpisodeStatistics(RecordVideo(made, str(tmp_path), video_length=5, episode_trigger=lambda _: True))
    env.reset(seed=1)
    info: dict[str, Any] = {}
    for _ in range(4):
        info = env.step(env.action_space.sample())[-1]
    env.close()
    assert clips[0].shape[0] == 5 and clips[0].shape[-1] == 3 and clips[0].std() > 1
    assert ("episode" in info) == (name == "mtrl/MT1-v3")
