"""The batched engine gives the trajectories of Meta-World's own environments, for any number of threads.

`make test` compares short episodes of a few tasks. `make test-parity` compares whole episodes of all tasks, with both
reward versions.
"""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import io
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from metaworld.policies import ENV_POLICY_MAP

from mtrl.bench.envs import _peak_mb
from mtrl.core.errors import UserError
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.models import make_env, physics_model, whole_model
from mtrl.envs.metaworld.package_envs import PackageEnvs
from mtrl.envs.metaworld.starts import INTEGRATION, reset_once
from mtrl.envs.metaworld.suite import BENCHMARKS, Config, MetaWorldSuite
from tests.support.metaworld_rollouts import assert_same, draw_actions, run

NAMES = sorted(BENCHMARKS["mt50"])
SAMPLE = ["pick-place-v3", "drawer-open-v3", "hammer-v3", "basketball-v3", "door-open-v3"]
BOUND = 1e-9
EXACT = ("terminated", "truncated", "success")


def _suite(tasks: list[str], **options: Any) -> MetaWorldSuite:
    return MetaWorldSuite(Config("custom", tasks=tasks, **options))


@pytest.fixture(scope="module")
def trio() -> MetaWorldSuite:
    return _suite(SAMPLE[:3], horizon=12)


def _assert_close(ours: Any, theirs: Any, where: str) -> None:
    for name, expected in vars(theirs).items():
        found = getattr(ours, name)
        if name in EXACT or name == "measures":
            assert np.array_equal(found, expected), f"{where}: {name}"
        else:
            gap = np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)
            assert gap.max() <= BOUND, f"{where}: {name} is off by {gap.max():.1e}"


# Meta-World's numbers


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_short_episodes_equal_the_packages_across_resets(version: str) -> None:
    suite = _suite(SAMPLE, horizon=15, reward_version=version)
    ours = suite.make_envs(3, 2)
    theirs = PackageEnvs(suite.goals(3), 3, 2, horizon=15, reward_version=version)
    assert np.array_equal(ours.reset(), theirs.reset())
    for step, action in enumerate(draw_actions(40, len(SAMPLE), 2)):
        _assert_close(ours.step(action), theirs.step(action), f"step {step}")
    ours.close()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Constant:UserWarning")
@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("task", NAMES)
def test_whole_episodes_equal_the_packages(task: str, seed: int, version: str) -> None:
    """Copies 0, 1 and 2 act by script, by script with noise, and at random."""
    suite = _suite([task], reward_version=version)
    ours = suite.batched_envs(seed, 3, threads=2)
    theirs = PackageEnvs(suite.goals(seed), seed, 3, reward_version=version)
    rng, policy = np.random.default_rng(seed), ENV_POLICY_MAP[task]()
    observation = theirs.reset()
    assert np.array_equal(ours.reset(), observation)
    for step in range(1010):
        action = rng.normal(0, 1, (1, 3, 4)) * np.array([0.0, 0.3, 0.7])[:, None]
        for copy in range(2):
            action[0, copy] += np.clip(policy.get_action(observation[0, copy]), -1, 1)
        result = theirs.step(action.astype(np.float32))
        _assert_close(ours.step(action.astype(np.float32)), result, f"step {step}")
        observation = result.observation
    assert not ours.faults.any() and not theirs.faults.any()
    ours.close()


def test_terminate_on_success_and_a_schedule_are_the_packages(trio: MetaWorldSuite) -> None:
    order = np.array([[4, 1, 9], [0, 2, 2], [7, 7, 3]])
    options: dict[str, Any] = {"horizon": 9, "terminate_on_success": True, "schedule": order}
    ours, theirs = (kind(trio.goals(0), 0, 2, **options) for kind in (BatchedEnvs, PackageEnvs))
    assert np.array_equal(ours.reset(), theirs.reset())
    for step, action in enumerate(draw_actions(24, 3, 2)):
        _assert_close(ours.step(action), theirs.step(action), f"step {step}")
    assert not ours.step(draw_actions(1, 3, 2)[0]).truncated.any()
    ours.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_meeting_goals_in_an_episode_does_not_change_it(threads: int) -> None:
    suite = _suite(["door-open-v3", "pick-place-v3"])
    ours, met = (suite.batched_envs(0, 2, threads=threads) for _ in range(2))
    met.reset()
    ours.reset()
    suite._known.clear()
    met.meet_goals()
    for action in draw_actions(5, 2, 2):
        assert np.array_equal(ours.step(action).observation, met.step(action).observation)
    ours.close()
    met.close()


def test_the_info_is_the_packages() -> None:
    suite = _suite(SAMPLE)
    ours, theirs = suite.batched_envs(0, 1, with_info=True), PackageEnvs(suite.goals(0), 0, 1)
    ours.reset()
    theirs.reset()
    for action in draw_actions(3, len(SAMPLE), 1):
        ours.step(action)
        info = ours.info()
        for t, env in enumerate(theirs.envs):
            expected = env.step(action[t, 0])[4]
            for name, values in info.items():
                assert abs(values[t, 0] - float(expected[name])) <= BOUND, (SAMPLE[t], name)
    ours.close()


def _fields(model: Any, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    skipped = ("body_geomadr", "body_geomnum", "geom_dataid", "geom_matid", "geom_bodyid", "body_bvhadr", "body_bvhnum")
    return {
        name: value
        for name in dir(model)
        if name.startswith(prefixes) and name not in skipped and isinstance(value := getattr(model, name), np.ndarray)
    }


@pytest.mark.parametrize("task", [pytest.param(t, marks=() if t in SAMPLE[:2] else pytest.mark.parity) for t in NAMES])
def test_the_small_model_has_the_physics_of_the_whole_one(task: str) -> None:
    whole = whole_model(task)
    small = physics_model(make_env(task, "v2").fullpath)
    for name, value in _fields(
        whole, ("body_", "jnt_", "dof_", "eq_", "site_", "qpos", "actuator_", "tendon_")
    ).items():
        assert np.array_equal(getattr(small, name), value), name
    colliding = [np.flatnonzero((m.geom_contype != 0) | (m.geom_conaffinity != 0)) for m in (whole, small)]
    for name, value in _fields(whole, ("geom_",)).items():
        assert np.array_equal(getattr(small, name)[colliding[1]], value[colliding[0]]), name
    named = [[m.geom(i).name for i in range(m.ngeom) if m.geom(i).name] for m in (whole, small)]
    assert named[0] == named[1] and small.stat.meaninertia == whole.stat.meaninertia
    assert small.nbuffer < 4e6 < whole.nbuffer


@pytest.mark.parametrize("task", [pytest.param(t, marks=() if t in SAMPLE[:2] else pytest.mark.parity) for t in NAMES])
def test_a_reset_depends_on_the_goal_alone_and_the_short_one_equals_it(task: str) -> None:
    goals = _suite([task]).goals(1)[task]
    first: dict[int, list[np.ndarray]] = {}
    whole, short = make_env(task, "v2"), make_env(task, "v2")
    rng = np.random.default_rng(0)
    for goal in (0, 7, 20, 7, 0):
        for env, reset in ((whole, lambda env: env.reset()[0]), (short, reset_once)):
            env.set_task(goals[goal])
            observation = reset(env)
            physics = np.empty(mujoco.mj_stateSize(env.model, INTEGRATION))
            mujoco.mj_getState(env.model, env.data, physics, INTEGRATION)
            assert env._target_pos is not None
            found = [observation, physics, env.model.body_pos.copy(), env.model.site_pos.copy(), env._target_pos.copy()]
            for left, right in zip(first.setdefault(goal, found), found, strict=True):
                assert np.array_equal(left, right)
        for _ in range(10):
            whole.step(rng.uniform(-1, 1, 4).astype(np.float32))


# Threads, state


@pytest.mark.parametrize("threads", [2, 4])
def test_the_number_of_threads_changes_nothing(trio: MetaWorldSuite, threads: int) -> None:
    one, many = (trio.batched_envs(5, 3, threads=count) for count in (1, threads))
    assert np.array_equal(one.reset(), many.reset())
    actions = draw_actions(30, 3, 3)
    assert_same(run(one, actions), run(many, actions))
    one.reset(seed=6)
    assert not np.array_equal(one.reset(seed=6), many.reset())
    one.close()
    many.close()


def test_a_saved_state_goes_on_exactly_across_resets(trio: MetaWorldSuite) -> None:
    envs, fresh = trio.make_envs(5, 2), trio.make_envs(5, 2)
    envs.reset()
    fresh.reset(seed=6)
    actions = draw_actions(40, 3, 2)
    run(envs, actions[:9])
    buffer = io.BytesIO()
    torch.save(envs.state_dict(), buffer)
    expected = run(envs, actions[9:])
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same(expected, run(fresh, actions[9:]))
    envs.close()
    fresh.close()


def test_a_state_of_others_is_refused(trio: MetaWorldSuite) -> None:
    envs = trio.make_envs(0, 1)
    envs.reset()
    package = PackageEnvs(trio.goals(0), 0, 1)
    package.reset()
    for state in (package.state_dict(), {**envs.state_dict(), "tasks": ["reach-v3"]}):
        with pytest.raises(UserError, match="Saved environments"):
            envs.load_state_dict(state)
    envs.close()


def test_refusals_are_one_line(trio: MetaWorldSuite) -> None:
    envs = trio.make_envs(0, 1)
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(draw_actions(1, 3, 1)[0])
    envs.close()
    with pytest.raises(UserError, match="batched engine"):
        BatchedEnvs({"reach-v9": []}, 0, 1)


# gymnasium


def test_the_vector_environment_keeps_gymnasiums_contract() -> None:
    envs: Any = gymnasium.make_vec("mtrl/MT10-v3", num_envs=20, use_one_hot=True, max_episode_steps=5, threads=2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP and envs.num_envs == 20
    envs.action_space.seed(0)
    first, info = envs.reset(seed=4)
    assert envs.observation_space.contains(first) and info == {}
    assert np.array_equal(first[:, 39:], np.repeat(np.eye(10), 2, axis=0))
    for step in range(6):
        observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observation)
        assert reward.shape == terminated.shape == truncated.shape == info["success"].shape == (20,)
        assert truncated.all() == (step == 4) and ("final_obs" in info) == (step == 4)
        if step == 4:
            final = np.stack(list(info["final_obs"]))
            assert info["_final_obs"].all() and final.shape == observation.shape
            assert not np.array_equal(final, observation)
            assert np.array_equal(info["final_info"]["success"], info["success"])
    assert np.array_equal(envs.reset(seed=4)[0], first)
    envs.close()


def test_one_task_and_wrong_numbers_of_environments() -> None:
    envs = gymnasium.make_vec("mtrl/MT1-v3", num_envs=3, task="reach-v3")
    assert envs.reset()[0].shape == (3, 39)
    envs.close()
    with pytest.raises(UserError, match="a multiple of 10"):
        gymnasium.make_vec("mtrl/MT10-v3", num_envs=12)


@pytest.mark.slow
def test_mt50_with_four_copies_fits_in_two_gigabytes() -> None:
    assert 100 < _peak_mb("mt50", 4) < 2000
