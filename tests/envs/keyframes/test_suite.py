"""The suite: demonstrations with pictures where they count, evaluation copies, Gymnasium, films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mtrl.core.errors import UserError
from mtrl.data.demos import CAMERAS, POLICY_CAMERAS, decision_frames, keyframes
from mtrl.data.rlbench_layout import read_demo, write_demo
from mtrl.envs import SUITES
from mtrl.envs.keyframes import Config, KeyframesSuite
from mtrl.envs.keyframes.envs import KeyframeCopies
from mtrl.envs.keyframes.film import film
from mtrl.envs.keyframes.tasks import TASKS
from tests.support.videos import frames_in

TASK = "push_button"


def suite(**options: Any) -> KeyframesSuite:
    return SUITES.build(Config(**{"tasks": [TASK, "reach_target"], "image_size": 32, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["reach"]}, r"`benchmark.tasks` should name some of reach_target"),
        ({"tasks": [TASK, TASK]}, r"`benchmark.tasks` should be a list without duplicates"),
        ({"cameras": ["wrist", "wrist"]}, r"`benchmark.cameras` should be distinct names of left_shoulder"),
        ({"image_size": 1000}, r"`benchmark.image_size` should be in 16..480. Found 1000"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**options)


def test_pictures_are_drawn_where_a_policy_decides(offscreen: str) -> None:
    demos = list(suite().demonstrations(seed=1, episodes=2))
    assert [demo.task for demo in demos] == [TASK] * 2 + ["reach_target"] * 2
    for demo in demos:
        keys = keyframes(demo)
        assert len(keys) == TASKS[demo.task].keyframes and demo.descriptions == [TASKS[demo.task].sentence]
        drawn = [i for i, frame in enumerate(demo.frames) if frame.images]
        assert drawn == decision_frames(keys)
        for i in drawn:
            frame = demo.frames[i]
            assert set(frame.images) == set(frame.cameras) == set(POLICY_CAMERAS)
            assert all(image.rgb.shape == (32, 32, 3) and image.rgb.std() > 5 for image in frame.images.values())
    again = next(iter(suite().demonstrations(seed=1, episodes=1)))
    assert all((a.gripper_pose == b.gripper_pose).all() for a, b in zip(again.frames, demos[0].frames, strict=True))
    assert (again.frames[0].images["wrist"].rgb == demos[0].frames[0].images["wrist"].rgb).all()


def test_every_frame_can_be_drawn_by_all_five_cameras(offscreen: str) -> None:
    demo = next(iter(suite().demonstrations(seed=1, episodes=1, every_frame=True)))
    assert all(set(frame.images) == set(frame.cameras) == set(CAMERAS) for frame in demo.frames)
    assert len(keyframes(demo)) == TASKS[TASK].keyframes


def test_rlbench_s_layout_holds_such_a_demonstration(tmp_path: Path, offscreen: str) -> None:
    """Written and read back: the same poses, cameras and colours, depth to a hundredth of a millimetre."""
    demo = next(iter(suite(tasks=["reach_target"]).demonstrations(seed=1, episodes=1, every_frame=True)))
    found = read_demo(write_demo(demo, tmp_path, 0), CAMERAS)
    assert len(found) == len(demo) and keyframes(found) == keyframes(demo) and found.descriptions == demo.descriptions
    for ours, theirs in zip(demo.frames, found.frames, strict=True):
        assert np.allclose(ours.gripper_pose, theirs.gripper_pose) and ours.gripper_open == theirs.gripper_open
        for name in CAMERAS:
            one, other = ours.images[name], theirs.images[name]
            assert (one.rgb == other.rgb).all() and one.depth is not None and other.depth is not None
            assert np.abs(one.depth - other.depth).max() < 1e-5
            assert np.allclose(ours.cameras[name].extrinsics, theirs.cameras[name].extrinsics)


def test_copies_play_numbered_episodes_whatever_their_number(offscreen: str) -> None:
    wide, narrow = suite().make_evaluation_envs(1, 3), suite().make_evaluation_envs(1, 1)
    try:
        first, third = wide.reset(), narrow.reset(first=2)
        assert (wide.num_tasks, wide.envs_per_task) == (2, 3)
        for t in range(2):
            assert (first[t][2].images["wrist"].rgb == third[t][0].images["wrist"].rgb).all()
            assert (first[t][0].images["wrist"].rgb != first[t][1].images["wrist"].rgb).any()
        _moves_as_alone(wide, narrow)
    finally:
        wide.close()
        narrow.close()


def _moves_as_alone(wide: KeyframeCopies, narrow: KeyframeCopies) -> None:
    """Copies that move at the same time in several threads end where copies do that move on their own."""
    step = wide.step(np.array([[episode.expert()[0] for episode in row] for row in wide.episodes]))
    for task, row in enumerate(narrow.episodes):
        row[0].act(row[0].expert()[0])
        other, here = wide.episodes[task][2].world.data, row[0].world.data
        assert np.array_equal(other.qpos, here.qpos) and np.array_equal(other.qvel, here.qvel)
        assert np.array_equal(step.frames[task][2].gripper_pose, np.asarray(row[0].world.gripper))


def test_a_copy_ends_alone_and_then_ignores_actions(offscreen: str) -> None:
    """Two copies of two tasks: experts, nonsense, and standing still."""
    envs = suite().make_evaluation_envs(1, 2)
    try:
        frames = envs.reset()
        plans = [[episode.expert() for episode in row] for row in envs.episodes]
        still = np.array([*frames[0][1].gripper_pose, 1.0])
        action = np.stack([[plans[0][0][0], still], [plans[1][0][0], np.full(8, np.nan)]])
        step = envs.step(action)
        assert step.over.tolist() == [[False, False], [True, True]]
        assert step.success.tolist() == [[False, False], [True, False]]
        assert envs.stages.tolist() == [[1, 1], [1, 0]]
        assert step.frames[0][0] is not frames[0][0] and step.frames[0][0].gripper_open == 0
        action[0] = [plans[0][0][1], still]
        step = envs.step(action)
        assert step.over.all() and step.success.tolist() == [[True, False], [True, False]]
        rest = envs.step(action)
        assert all(rest.frames[t][n] is step.frames[t][n] for t in range(2) for n in range(2))
        assert envs.reset(first=7) and not envs.stages.any()
    finally:
        envs.close()


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_knows_every_task(task: str, offscreen: str) -> None:
    env: Any = gymnasium.make(f"mtrl/Keyframes-{task}-v0", image_size=32)
    observation, _ = env.reset(seed=3)
    assert observation in env.observation_space and observation["stage"] == 0
    plan = env.unwrapped.expert()
    terminated = truncated = False
    for stage, action in enumerate(plan, 1):
        assert action in env.action_space
        observation, reward, terminated, truncated, _ = env.step(action)
        assert observation in env.observation_space and observation["stage"] == stage
        assert (reward == 1) == terminated and not (terminated and truncated)
    assert terminated or truncated
    env.close()


@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space:UserWarning")
def test_gymnasium_s_own_checks_pass(offscreen: str) -> None:
    env = gymnasium.make(f"mtrl/Keyframes-{TASK}-v0", image_size=32, render_mode="rgb_array")
    check_env(env.unwrapped, skip_close_check=True)
    env.reset(seed=1)
    picture: Any = env.render()
    assert picture.shape == (320, 320, 3) and picture.std() > 10
    env.close()


def test_gymnasium_needs_a_reset() -> None:
    env: Any = gymnasium.make(f"mtrl/Keyframes-{TASK}-v0").unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.expert()


def test_a_policy_is_filmed(tmp_path: Path, offscreen: str) -> None:
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("PIL")
    envs = suite().make_evaluation_envs(1, 1)
    plans: list[list[np.ndarray]] = []

    def expert(frames: Any, step: int) -> np.ndarray:
        plans.extend(row[0].expert() for row in envs.episodes if step == 0)
        return np.stack([plan[min(step, len(plan) - 1)][None] for plan in plans])

    path = tmp_path / "experts.mp4"
    try:
        assert film(expert, envs, suite().tasks, path, size=64) == {TASK: True, "reach_target": True}
    finally:
        envs.close()
    assert frames_in(path) > 10


def test_a_policy_whose_actions_are_all_invalid_is_filmed(tmp_path: Path, offscreen: str) -> None:
    pytest.importorskip("imageio_ffmpeg")
    envs = suite().make_evaluation_envs(1, 1)
    try:
        assert not any(
            film(lambda frames, step: np.zeros((2, 1, 8)), envs, suite().tasks, tmp_path / "a.mp4", 64).values()
        )
    finally:
        envs.close()
    assert frames_in(tmp_path / "a.mp4") >= 1


@pytest.mark.parametrize("options", [{"image_size": 481}, {"image_size": 0}, {"cameras": ["x"]}, {"cameras": "front"}])
def test_the_gymnasium_form_refuses_the_pictures_that_the_benchmark_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"`benchmark.{next(iter(options))}` should be"):
        gymnasium.make("mtrl/Keyframes-reach_target-v0", **options)


def test_a_description_says_that_it_is_not_rlbench() -> None:
    facts = suite().description()
    assert facts["comparable_with_rlbench"] is False and facts["tasks"] == [TASK, "reach_target"]
    assert "±45°" in facts["ranges"][TASK] and facts["keyframes"] == {TASK: 2, "reach_target": 1}
