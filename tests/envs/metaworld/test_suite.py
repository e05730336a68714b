"""The Meta-World suite and Meta-World's own environments behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import metaworld
import metaworld.env_dict
import numpy as np
import pytest
import torch
from metaworld.policies import ENV_POLICY_MAP

from mtrl.core.errors import UserError
from mtrl.core.types import StepResult
from mtrl.envs.metaworld.package_envs import PackageEnvs
from mtrl.envs.metaworld.suite import BENCHMARKS, MetaWorldSuite, evaluation_order
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from tests.support.metaworld_rollouts import assert_same, run

SEED = 3
PAIR = ["reach-v3", "door-open-v3"]


def custom(**options: Any) -> MetaWorldSuite:
    return MetaWorldSuite(MetaWorldConfig("custom", tasks=PAIR, **{"engine": "package", **options}))


def actions(steps: int, copies: int = 1, tasks: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, tasks, copies, 4)).astype(np.float32)


# Tasks and goals


@pytest.mark.parametrize(("kind", "size"), [("mt10", 10), ("mt25", 25), ("mt50", 50)])
def test_a_benchmark_has_the_packages_tasks_in_its_order(kind: str, size: int) -> None:
    suite = MetaWorldSuite(MetaWorldConfig(kind))
    assert list(suite.tasks) == list(getattr(metaworld.env_dict, f"{kind.upper()}_V3"))
    assert len(suite.tasks) == size


def test_mt1_has_the_goals_of_the_packages_mt1_and_global_draws_go_on_undisturbed() -> None:
    np.random.seed(0)
    expected = np.random.get_state(legacy=False)
    goals = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["push-v3"])).goals(SEED)
    assert str(np.random.get_state(legacy=False)) == str(expected)
    assert goals == {"push-v3": metaworld.MT1("push-v3", seed=SEED).train_tasks}


def test_tasks_of_a_benchmark_draw_from_one_stream_and_custom_ones_from_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the first two tasks of MT10; `make test-parity` compares them all."""
    names = ["reach-v3", "push-v3"]
    classes = metaworld.env_dict._get_env_dict(names)
    kwargs = metaworld.env_dict._get_args_kwargs(metaworld.env_dict.ALL_V3_ENVIRONMENTS, classes)
    theirs = metaworld._make_tasks(classes, kwargs, {"partially_observable": False}, seed=SEED)
    monkeypatch.setitem(BENCHMARKS, "mt10", classes)
    ours = MetaWorldSuite(MetaWorldConfig("mt10")).goals(SEED)
    assert ours["reach-v3"] + ours["push-v3"] == theirs
    assert MetaWorldSuite(MetaWorldConfig("mt10", tasks=["push-v3"])).goals(SEED) == {"push-v3": ours["push-v3"]}
    own = MetaWorldSuite(MetaWorldConfig("custom", tasks=names)).goals(SEED)
    assert own["reach-v3"] == ours["reach-v3"] and own["push-v3"] != ours["push-v3"]
    alone = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["push-v3"])).goals(SEED + 1)
    assert own["push-v3"] == alone["push-v3"]


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["mt10", "mt25", "mt50"])
def test_all_goals_are_the_packages(kind: str) -> None:
    goals = MetaWorldSuite(MetaWorldConfig(kind)).goals(SEED)
    assert [goal for task in goals.values() for goal in task] == getattr(metaworld, kind.upper())(SEED).train_tasks


def test_fewer_goals_are_the_first_ones() -> None:
    few, all_goals = custom(num_goals=3).goals(SEED), custom().goals(SEED)
    assert all(few[task] == all_goals[task][:3] and len(all_goals[task]) == 50 for task in PAIR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mt11"}, "mt1, mt10, mt25, mt50, custom"),
        ({"kind": "mt1", "tasks": ["reech-v3"]}, "Did you mean reach-v3"),
        ({"kind": "mt1"}, "one task"),
        ({"kind": "mt1", "tasks": PAIR}, "one task"),
        ({"kind": "mt10", "tasks": ["hammer-v3"]}, "should name some of reach-v3, push-v3"),
        ({"kind": "custom"}, "a list of tasks"),
        ({"kind": "custom", "tasks": PAIR * 2}, "a list without duplicates"),
        ({"reward_version": "v3"}, "v1, v2"),
        ({"horizon": 0}, "1..500"),
        ({"horizon": 501}, "1..500"),
        ({"steps_after_success": -1}, "steps_after_success.* 0 or more"),
        ({"training_horizons": [100, 0]}, r"training_horizons.* 1\.\.500"),
        ({"num_goals": 51}, "1..50"),
        ({"engine": "warp"}, "batched, package"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        MetaWorldConfig(**options)
    assert "\n" not in str(caught.value) and "Found" in str(caught.value)


@pytest.mark.parametrize(("kind", "seed"), [("mt10", 2**32), ("custom", 2**32 - 1), ("custom", -1)])
def test_seeds_from_which_no_goals_can_come_are_refused(kind: str, seed: int) -> None:
    with pytest.raises(UserError, match=r"`seed` should be in 0\.\.42949672\d\d for Meta-World"):
        MetaWorldSuite(MetaWorldConfig(kind, tasks=PAIR, num_goals=1)).goals(seed)


def test_the_description_is_plain_and_complete() -> None:
    suite = custom(reward_version="v1", horizon=200, num_goals=7)
    said = json.loads(json.dumps(suite.description()))
    assert said["tasks"] == PAIR and said["horizon"] == 200 and said["num_goals"] == 7
    assert said["reward_version"] == "v1" and set(said["versions"]) == {"metaworld", "mujoco", "gymnasium"}


# Order of evaluation


def test_protocol_goals_plays_every_goal_once_and_upstream_draws() -> None:
    once = evaluation_order(SEED, 4, 50, 50, "goals")
    assert all(sorted(order) == list(range(50)) for order in once)
    assert len({tuple(order) for order in once}) == 4
    assert np.array_equal(evaluation_order(SEED, 4, 50, 10, "goals"), once[:, :10])
    drawn = evaluation_order(SEED, 4, 50, 500, "upstream")
    assert drawn.shape == (4, 500) and drawn.min() == 0 and drawn.max() == 49
    assert np.array_equal(drawn, evaluation_order(SEED, 4, 50, 500, "upstream"))
    with pytest.raises(UserError, match=r"1\.\.50"):
        evaluation_order(SEED, 4, 50, 51, "goals")
    with pytest.raises(UserError, match="goals, upstream"):
        evaluation_order(SEED, 4, 50, 5, "all")


def test_evaluation_plays_its_episodes_then_stands_still_and_starts_again_at_a_reset() -> None:
    envs = custom(horizon=4).make_evaluation_envs(SEED, 2)
    first = envs.reset().copy()
    steps = run(envs, actions(12))
    assert [bool(step["truncated"].all()) for step in steps] == [k in (3, 7) for k in range(12)]
    assert not np.array_equal(steps[3]["observation"], steps[3]["next_observation"])
    assert all((step["observation"] == steps[7]["next_observation"]).all() for step in steps[7:])
    assert all((step["reward"] == 0).all() and not step["success"].any() for step in steps[8:])
    assert np.array_equal(envs.reset(), first)
    assert_same(run(envs, actions(12)), steps)


@pytest.mark.parametrize("engine", ["batched", "package"])
def test_copies_take_turns_at_the_horizons_of_training_and_evaluations_have_their_own(engine: str) -> None:
    suite = custom(horizon=5, training_horizons=[2, 3], engine=engine)
    assert suite.spec.horizon == 5 and suite.description()["training_horizons"] == [2, 3]
    for envs, lengths in ((suite.make_envs(SEED, 3), [2, 3, 2]), (suite.make_evaluation_envs(SEED, 3), [5, 5, 5])):
        envs.reset()
        copies = envs.envs_per_task
        ends = np.array([step["truncated"] for step in run(envs, actions(5, copies))])
        assert (ends == np.array([[k % n == 0 for n in lengths[:copies]] for k in range(1, 6)])[:, None]).all()


@pytest.mark.filterwarnings("ignore:Constant")
@pytest.mark.parametrize("engine", ["batched", "package"])
def test_a_training_episode_ends_some_steps_after_its_first_success(engine: str) -> None:
    suite = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["reach-v3"], steps_after_success=3, engine=engine))
    envs, script = suite.make_envs(SEED, 1), ENV_POLICY_MAP["reach-v3"]()
    observation, solved, ends, terminated = envs.reset(), [], [], False
    for step in range(200):
        result = envs.step(np.clip(script.get_action(observation[0, 0]), -1, 1)[None, None])
        solved += [step] if result.success.any() else []
        ends += [step] if result.truncated.any() else []
        terminated |= bool(result.terminated.any())
        observation = result.observation
        if len(ends) == 2:
            break
    assert len(ends) == 2 and not terminated
    second = next(step for step in solved if step > ends[0])
    assert ends == [solved[0] + 3, second + 3]


# Stepping


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_steps_equal_the_packages_vector_environment_across_resets(version: str) -> None:
    goals = custom().goals(SEED)
    classes = metaworld.env_dict.ALL_V3_ENVIRONMENTS
    options: dict[str, Any] = {"seed": 1, "max_episode_steps": 15, "reward_function_version": version}
    theirs = gymnasium.vector.SyncVectorEnv(
        [partial(metaworld._init_each_env, env_cls=classes[task], tasks=goals[task][:1], **options) for task in PAIR],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    envs = custom(num_goals=1, horizon=15, reward_version=version).make_envs(SEED, 1)
    assert np.array_equal(envs.reset()[:, 0], theirs.reset()[0])
    for step, action in enumerate(actions(35)):
        ours: StepResult = envs.step(action)
        observation, reward, terminated, truncated, info = theirs.step(action[:, 0])
        assert np.array_equal(ours.observation[:, 0], observation)
        assert np.array_equal(ours.reward[:, 0], reward)
        assert np.array_equal(ours.truncated[:, 0], truncated) and not terminated.any()
        if step % 15 == 14:
            assert truncated.all()
            observation, info = np.stack(list(info["final_obs"])), info["final_info"]
        assert np.array_equal(ours.next_observation[:, 0], observation)
        assert np.array_equal(ours.success[:, 0], info["success"])
    theirs.close()


def test_same_seed_same_numbers_and_copies_differ() -> None:
    one = custom(horizon=6).make_envs(SEED, 2)
    two = custom(horizon=6).make_envs(SEED, 2)
    first = one.reset().copy()
    assert np.array_equal(first, two.reset())
    assert not np.array_equal(first[:, 0], first[:, 1])
    steps = run(one, actions(20, 2))
    assert_same(steps, run(two, actions(20, 2)))
    two.close()
    one.reset(seed=SEED + 1)
    other = run(one, actions(20, 2))
    assert not np.array_equal(other[-1]["observation"], steps[-1]["observation"])


def test_a_saved_state_goes_on_exactly_across_resets() -> None:
    saver, loader = custom(horizon=14), custom(horizon=14)
    chosen = actions(40, 2)
    envs = saver.make_envs(SEED, 2)
    envs.reset()
    run(envs, chosen[:9])
    buffer = io.BytesIO()
    torch.save(envs.state_dict(), buffer)
    buffer.seek(0)
    expected = run(envs, chosen[9:])
    envs.close()
    fresh = loader.make_envs(SEED, 2)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same(expected, run(fresh, chosen[9:]))
    fresh.close()


@pytest.mark.parity
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("task", list(BENCHMARKS["mt50"]))
def test_every_task_goes_on_exactly(task: str, version: str) -> None:
    suite = MetaWorldSuite(MetaWorldConfig("mt1", tasks=[task], horizon=40, reward_version=version, engine="package"))
    envs = suite.make_envs(SEED, 1)
    fresh = PackageEnvs(suite.goals(SEED), SEED + 1, 1, horizon=40, reward_version=version)
    envs.reset()
    chosen = actions(110, tasks=1)
    run(envs, chosen[:20])
    fresh.load_state_dict(envs.state_dict())
    assert_same(run(envs, chosen[20:]), run(fresh, chosen[20:]))


def test_a_state_of_other_tasks_is_refused() -> None:
    envs = custom().make_envs(SEED, 1)
    envs.reset()
    other = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["reach-v3"], engine="package")).make_envs(SEED, 1)
    batched = custom(engine="batched").make_envs(SEED, 1)
    batched.reset()
    for target, source in ((other, envs), (envs, batched)):
        with pytest.raises(UserError, match="Saved environments"):
            target.load_state_dict(source.state_dict())


def test_stepping_before_a_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        custom().make_envs(SEED, 1).step(actions(1)[0])


# Failures


@pytest.fixture
def pair(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageEnvs]:
    """Two tasks, two copies, in a folder of its own: MuJoCo writes MUJOCO_LOG.TXT into the working folder."""
    monkeypatch.chdir(tmp_path)
    envs = PackageEnvs(custom().goals(SEED), SEED, 2, horizon=10)
    envs.reset()
    run(envs, actions(3, 2))
    yield envs
    envs.close()


@pytest.mark.parametrize("failure", ["unstable", "exception", "reward"])
def test_a_copy_that_fails_starts_anew_and_is_counted(
    failure: str, pair: PackageEnvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    env: Any = pair.envs[1]
    if failure == "unstable":
        env.data.qvel[:] = 1e12
    elif failure == "exception":
        monkeypatch.setattr(env, "evaluate_state", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr(env, "evaluate_state", lambda *_: (float("nan"), {"success": 0.0}))
    before = pair.state_dict()["copies"][1]["row"]["observation"].numpy()
    step = run(pair, actions(1, 2))[0]
    assert pair.faults.tolist() == [[0, 1], [0, 0]]
    assert step["truncated"].tolist() == [[False, True], [False, False]]
    assert step["reward"][0, 1] == 0 and not step["terminated"].any()
    assert np.array_equal(step["next_observation"][0, 1], before)
    monkeypatch.undo()
    rest = run(pair, actions(9, 2))
    assert all(np.isfinite(step["observation"]).all() for step in rest)
    assert [bool(step["truncated"][0, 0]) for step in rest].index(True) == 5
    assert not any(step["truncated"][0, 1] for step in rest)
    assert pair.faults.sum() == 1
