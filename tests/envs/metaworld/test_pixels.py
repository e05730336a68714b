"""Observations that are pictures: Meta-World's own renderer draws the same, at the right moments of an episode."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import gymnasium
import metaworld  # noqa: F401  (registers Meta-World/MT1)
import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

import mtrl.envs.metaworld  # noqa: F401  (registers mtrl/MT1-v3 and its like)
from mtrl.bench import envs as bench
from mtrl.core.errors import UserError
from mtrl.envs.metaworld.models import whole_model
from mtrl.envs.metaworld.starts import INTEGRATION

TASKS = ["reach-v3", "door-open-v3"]
make: Any = gymnasium.make_vec
pytestmark = pytest.mark.usefixtures("offscreen")


def custom(**options: Any) -> Any:
    return make("mtrl/custom-mt-envs-v3", envs_list=TASKS, num_envs=4, seed=1, **{"width": 48, "height": 32, **options})


def actions(steps: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (steps, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("camera", ["corner2", "topview", "gripperPOV"])
def test_pictures_are_those_of_the_packages_renderer(
    camera: str, offscreen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, where Meta-World's renderer, too, goes without shadows, reflections and multisampling."""
    monkeypatch.setenv("MUJOCO_GL", offscreen)
    ours = custom(observation="pixels", camera_name=camera)
    ours.reset(seed=0)
    pictures = [ours.step(action)[0] for action in actions(8)][-1]
    for task, physics in enumerate(ours.unwrapped.envs.physics):
        options = {"render_mode": "rgb_array", "camera_name": camera, "width": 48, "height": 32}
        theirs: Any = make("Meta-World/MT1", env_name=TASKS[task], seed=1, vector_strategy="sync", **options)
        theirs.reset()
        env = theirs.envs[0].unwrapped
        env.model.vis.quality.offsamples = 0
        scene = env.mujoco_renderer._get_viewer("rgb_array").scn  # pyright: ignore[reportPrivateUsage]
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION"):
            scene.flags[getattr(mujoco.mjtRndFlag, flag)] = False  # pyright: ignore[reportAttributeAccessIssue]
        for n in range(2):
            env.model.body_pos[:], env.model.site_pos[:] = physics.positions(n)
            mujoco.mj_setState(env.model, env.data, physics.state(n), INTEGRATION)  # pyright: ignore[reportAttributeAccessIssue]
            mujoco.mj_forward(env.model, env.data)  # pyright: ignore[reportAttributeAccessIssue]
            picture = env.render()
            picture = picture[::-1, ::-1] if camera == "corner2" else picture  # upside down in Meta-World
            assert picture.std() > 5
            np.testing.assert_array_equal(pictures[2 * task + n], picture)
        theirs.close()
        # Its OpenGL objects end with it. Later, they would be deleted in the context of the next one.
        del theirs, env, scene
        gc.collect()
    ours.close()


def test_where_an_episode_ends_its_last_picture_comes_back_and_the_next_one_begins() -> None:
    """Compared with environments whose episodes go on, and with the first pictures of the same goals."""
    ending = custom(observation="both", max_episode_steps=3)
    plain, going = custom(max_episode_steps=3), custom(observation="pixels")
    first = [envs.reset(seed=0)[0] for envs in (ending, plain, going)]
    np.testing.assert_array_equal(first[0]["pixels"], first[2])
    for step, action in enumerate(actions(5)):
        results = [envs.step(action) for envs in (ending, plain, going)]
        (both, _, _, truncated, info), (state, *_, told), (pixels, *_) = results
        assert ending.observation_space.contains(both)
        np.testing.assert_array_equal(both["state"], state)
        assert truncated.all() == (step == 2)
        if step == 2:
            for i, final in enumerate(info["final_obs"]):
                np.testing.assert_array_equal(final["pixels"], pixels[i])
                np.testing.assert_array_equal(final["state"], told["final_obs"][i])
        shown = ending.call("sample_tasks") if step == 4 else None
        same = [(a == b).all() for a, b in zip(both["pixels"], pixels, strict=True)]
        assert all(same) if step < 2 else not any(same)
        assert shown is None or {name: part.shape for name, part in shown[3][0].items()} == {
            "state": (39,), "pixels": (32, 48, 3)
        }  # fmt: skip
    for envs in (ending, plain, going):
        envs.close()


def test_pictures_do_not_depend_on_threads_and_memory_is_reused_where_asked() -> None:
    found = []
    for threads in (1, 3):
        for copy in (True, False):
            envs = custom(observation="pixels", threads=threads, copy=copy, camera_name=["corner", "topview"])
            first = envs.reset(seed=0)[0]
            second, third = (envs.step(action)[0] for action in actions(2))
            assert np.shares_memory(second, third) == np.shares_memory(first, third) == (not copy)
            assert third.shape == (4, 2, 32, 48, 3) and not (third[:, 0] == third[:, 1]).all()
            found.append(third.copy())
            envs.close()
    assert all((found[0] == other).all() for other in found[1:])


class OtherRenderer:
    """A renderer as other libraries have it: a part of a cycle, so that Python's collector frees it at any time."""

    def __init__(self, backend: str) -> None:
        self.graphics = importlib.import_module(f"mujoco.{backend}").GLContext(64, 64)
        self.graphics.make_current()
        self.context = mujoco.MjrContext(whole_model(TASKS[0]), 100)  # pyright: ignore[reportAttributeAccessIssue]
        self.graphics.free()
        self.itself = self


def test_pictures_do_not_depend_on_when_other_renderers_become_garbage(
    offscreen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenGL deletes by number in whichever context is current, so another renderer's end can delete our textures."""
    envs, action = custom(observation="pixels", threads=2), actions(1)[0]
    envs.reset(seed=0)
    expected = envs.step(action)[0].copy()
    thresholds, update = gc.get_threshold(), mujoco.mjv_updateScene  # pyright: ignore[reportAttributeAccessIssue]

    def collects(*arguments: Any) -> Any:
        gc.set_threshold(1)  # the next container that Python makes starts a collection, if one may start
        made = [[] for _ in range(10)]
        gc.set_threshold(*thresholds)
        return update(*arguments) if made else None

    envs.reset(seed=0)
    OtherRenderer(offscreen)
    monkeypatch.setattr(mujoco, "mjv_updateScene", collects)
    found = envs.step(action)[0].copy()
    gc.collect()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(envs.reset(seed=0)[0], envs.reset(seed=0)[0])
    assert gc.isenabled()
    envs.close()


def test_one_copy_and_stable_baselines3_see_pictures_too() -> None:
    env: Any = gymnasium.make("mtrl/MT1-v3", task="reach-v3", observation="pixels", width=24)
    picture, _ = env.reset(seed=0)
    assert env.observation_space.contains(picture) and picture.shape == (24, 24, 3)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    env.close()
    pytest.importorskip("stable_baselines3", reason="the extra `aux` is not installed")
    from mtrl.envs.metaworld.sb3 import SB3VecEnv

    envs = SB3VecEnv(custom(observation="pixels", max_episode_steps=2, copy=False))
    pictures: Any = envs.reset()
    assert pictures.dtype == np.uint8 and envs.observation_space.contains(pictures[0])
    first = pictures.copy()
    steps: list[Any] = [envs.step(action) for action in actions(2)]
    seen, infos = steps[-1][0], steps[-1][-1]
    assert np.array_equal(pictures, first) and not np.array_equal(seen, first)
    assert envs.observation_space.contains(infos[0]["terminal_observation"])
    envs.close()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"observation": "picture"}, "`observation` should be one of state, pixels, both"),
        ({"width": 0}, "`width` should be 1 to 4096 pixels. Found 0"),
        ({"observation": "pixels", "camera_name": ["corner", "nowhere"]}, "`camera_name` should be one of"),
        ({"observation": "pixels", "camera_name": []}, "`camera_name` should be"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="Found") as raised:
        custom(**options).reset()
    assert message in str(raised.value)


def test_the_bench_has_a_row_of_ours_and_one_of_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one task in place of ten; both draw each state once."""
    drawn = []

    def one_task(name: str, **options: Any) -> Any:
        other = {"task": "reach-v3"} if name.startswith("mtrl/") else {"env_name": "reach-v3"}
        envs = make(name.replace("MT10", "MT1"), **options, **other)
        counts = {"steps": 0, "pictures": 0}
        drawn.append(counts)

        def counted(what: str, function: Any) -> Any:
            def call(*arguments: Any) -> Any:
                counts[what] += 1
                return function(*arguments)

            return call

        drawing = (envs.unwrapped._observe, "_draw") if name.startswith("mtrl/") else (envs, "render")
        monkeypatch.setattr(*drawing, counted("pictures", getattr(*drawing)))
        monkeypatch.setattr(envs, "step", counted("steps", envs.step))
        return envs

    monkeypatch.setattr(bench.gymnasium, "make_vec", one_task)
    monkeypatch.setenv("MUJOCO_GL", "")  # so that what the bench chooses does not stay
    monkeypatch.delenv("MUJOCO_GL")
    rows = bench._pictures("mt10", 0.4)
    assert [row["engine"] for row in rows] == ["pixels", "package_pixels"]
    assert all(row["steps_per_second"] > 0 for row in rows)
    (ours, theirs) = drawn
    assert 0 < ours["steps"] == ours["pictures"] - 1, "and the first state's"
    assert 0 < theirs["steps"] == theirs["pictures"]
