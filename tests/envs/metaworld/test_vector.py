"""The vector environment does what gymnasium's rules, Meta-World's own loops and their libraries expect of one."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import metaworld
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from metaworld import env_dict
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.evaluation import evaluation, metalearning_evaluation
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from mtrl.core.errors import UserError
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from mtrl.envs.metaworld.suite import MetaWorldSuite
from mtrl.envs.metaworld.vector import MetaWorldVectorEnv
from tests.support.metaworld_vector import TASKS, custom, make

Array = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore:Constant:UserWarning")  # of Meta-World's scripted policies


class Scripted:
    """Meta-World's scripted policies as an agent for its evaluation."""

    def __init__(self, tasks: list[str]) -> None:
        self.policies = [ENV_POLICY_MAP[task]() for task in tasks]

    def eval_action(self, observations: Array) -> Array:
        pairs = zip(self.policies, observations, strict=True)
        return np.clip([policy.get_action(row) for policy, row in pairs], -1, 1).astype(np.float32)

    def reset(self, env_mask: Array) -> None: ...


# arguments


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MT1", {}, "`task` should be the name of one of Meta-World's tasks"),
        ("MT1", {"task": "reach-v4"}, "Did you mean reach-v3"),
        ("MT1", {"task": "reach-v3", "reward_function_version": "v3"}, "`reward_function_version` should be one of v1"),
        ("MT1", {"task": "reach-v3", "max_episode_steps": 501}, "`max_episode_steps` should be in 1..500"),
        ("MT10", {"num_goals": 51}, "`num_goals` should be in 1..50"),
        ("MT10", {"num_goals": 0}, "`num_goals` should be in 1..50"),
        ("MT10", {"max_episode_steps": 0}, "`max_episode_steps` should be in 1..500"),
        (
            "MT10",
            {"num_envs": 20, "num_goals": 1, "task_select": "pseudorandom"},
            "The number of copies of a task should be at most the number of goals (1)",
        ),
        ("MT10", {"num_envs": 11}, "`num_envs` should be a multiple of 10"),
        ("MT10", {"num_envs": 0}, "`num_envs` should be 1 or more"),
        ("MT10", {"threads": -1}, "`threads` should be 1 or more"),
        ("MT10", {"task": "reach-v3"}, "`task` should be left out"),
        ("MT10", {"autoreset_mode": "never"}, "`autoreset_mode` should be one of NextStep, SameStep, Disabled"),
        ("MT10", {"render_mode": "human"}, "`render_mode` should be one of rgb_array"),
        ("MT10", {"vector_strategy": "fast"}, "`vector_strategy` should be one of sync, async"),
        ("MT10", {"normalize_observations": True}, "NormalizeObservation"),
        ("MT10", {"vectorization_mode": "sync"}, "made by gymnasium.make_vec, since it has several tasks"),
        ("MT10", {"num_env": 10}, "Did you mean 'num_envs'?"),
        ("custom-mt-envs", {"envs_list": "reach-v3"}, "`tasks` should be a list of task names"),
    ],
)
def test_arguments_are_refused_in_their_own_words(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="Found") as raised:
        make(f"mtrl/{name}-v3", **options)
    assert message in str(raised.value) and "benchmark." not in str(raised.value)


def test_meta_worlds_own_names_mean_the_same() -> None:
    ours = make("mtrl/MT1-v3", task="push-v3", num_envs=2, terminate_on_success=False)
    theirs = make(
        "mtrl/MT1-v3", env_name="push-v3", num_envs=2, vector_strategy="async", autoreset_mode="SameStep",
        task_select="random", max_episode_steps=None, normalize_observations=False, use_one_hot=False,
    )  # fmt: skip
    assert np.array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    ours.close()
    theirs.close()


def test_one_copy_is_an_ordinary_environment() -> None:
    env: Any = gymnasium.make("mtrl/MT1-v3", task="reach-v3", max_episode_steps=3)
    many = make("mtrl/MT1-v3", task="reach-v3", max_episode_steps=3)
    observation, _ = env.reset(seed=5)
    assert np.array_equal(observation, many.reset(seed=5)[0][0]) and env.observation_space.contains(observation)
    expected: Any = None
    for step in range(3):
        observation, reward, _, truncated, info = env.step(np.ones(4, np.float32))
        expected = many.step(np.ones((1, 4), np.float32))
        assert reward == expected[1][0] and info["success"] == expected[4]["success"][0] and truncated == (step == 2)
    assert np.array_equal(observation, expected[4]["final_obs"][0])
    with pytest.raises(UserError, match=r"of shape \(4,\)"):
        env.step(np.ones(3))
    env.close()
    many.close()


# other libraries' loops


def test_the_official_evaluation_gives_the_packages_numbers() -> None:
    """With one goal for each task, which leaves nothing to chance."""
    goals = MetaWorldSuite(MetaWorldConfig("custom", tasks=TASKS, num_goals=1)).goals(4)
    makers = [
        functools.partial(metaworld._init_each_env, ALL_V3_ENVIRONMENTS[task], goals[task], 0, max_episode_steps=100)
        for task in TASKS
    ]
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = custom(seed=4, num_goals=1, max_episode_steps=100)
    results = [evaluation(Scripted(TASKS), envs, num_episodes=2) for envs in (theirs, ours)]
    (success, returns, each, lists), ours_found = results
    assert (success, each) == (ours_found[0], ours_found[2]) and success > 0
    assert np.isclose(returns, ours_found[1], rtol=1e-6), "theirs are rounded to single precision"
    for task in TASKS:
        assert np.allclose(lists[task], ours_found[3][task], rtol=1e-6)
    assert ours.get_attr("terminate_on_success") == (False,) * 3
    ours.close()
    theirs.close()


def test_meta_learning_evaluation_runs_with_hidden_goals_of_the_test_split() -> None:
    class Learner(Scripted):
        def init(self) -> None: ...
        def adapt(self) -> None: ...
        def step(self, timestep: Any) -> None: ...
        def adapt_action(self, observations: Array) -> tuple[Array, dict[str, Any]]:
            return self.eval_action(observations), {}

    envs = make("mtrl/ML1-test-v3", env_name="drawer-close-v3", meta_batch_size=2, max_episode_steps=80, threads=1)
    assert envs.get_attr("terminate_on_success") == (True, True)
    options = {"num_evals": 1, "adaptation_episodes": 1, "evaluation_episodes": 1}
    success, _, tasks = metalearning_evaluation(Learner(["drawer-close-v3"] * 2), envs, **options)
    assert list(tasks) == ["drawer-close-v3"] and success == 1.0
    envs.close()


@pytest.mark.parametrize("split", ["train", "test"])
def test_meta_learning_benchmarks_have_the_packages_tasks_and_goals(split: str) -> None:
    official = metaworld.ML1("push-v3", seed=7)
    tasks = official.train_tasks if split == "train" else official.test_tasks
    envs = make(f"mtrl/ML1-{split}-v3", task="push-v3", seed=7, num_envs=2, threads=1)
    own, wanted = envs.arguments.goals()["push-v3"], [pickle.loads(task.data)["rand_vec"] for task in tasks]
    assert all(np.array_equal(pickle.loads(g.data)["rand_vec"], w) for g, w in zip(own, wanted, strict=True))
    observation, _ = envs.reset(seed=0)
    assert not observation[:, 36:39].any()
    again, _ = envs.reset()
    assert np.array_equal(observation, again), "a copy keeps its goal"
    envs.call("sample_tasks")
    assert not np.array_equal(envs.reset()[0], observation)
    listed = [envs.reset(seed=seed)[0] for seed in ([5, 6], [8, 9], [5, 6], [None, 9])]
    assert np.array_equal(listed[0], listed[2]) and not np.array_equal(listed[0], listed[1])
    assert np.array_equal(listed[3][0], listed[2][0]) and np.array_equal(listed[3][1], listed[1][1])
    envs.close()


@pytest.mark.parametrize("name", ["ml10", "ml25", "ml45"])
def test_splits_have_the_packages_tasks(name: str) -> None:
    from mtrl.envs.metaworld.arguments import parse

    for split in ("train", "test"):
        tasks = parse(name, split, {}).config().tasks
        assert tasks == list(getattr(env_dict, f"{name.upper()}_V3")[split])


def test_each_copy_plays_all_its_goals_before_one_comes_again() -> None:
    envs = make("mtrl/ML1-train-v3", task="reach-v3", num_envs=2, num_goals=6, threads=1)
    envs.reset(seed=1)
    played = []
    for _ in range(6):
        played.append(envs.envs._goal[0].tolist())
        envs.call("sample_tasks")
    for copy_, goals in enumerate(zip(*played, strict=True)):
        share = {copy_, copy_ + 2, copy_ + 4}
        assert set(goals[:3]) == set(goals[3:]) == share
    envs.close()


def test_episode_statistics_are_right_with_and_without_the_wrapper() -> None:
    plain, wrapped = custom(max_episode_steps=4), RecordEpisodeStatistics(custom(max_episode_steps=4))
    plain.action_space.seed(1)
    plain.reset(seed=1)
    wrapped.reset(seed=1)
    total = np.zeros(3)
    for step in range(8):
        actions = plain.action_space.sample()
        _, reward, _, _, info = plain.step(actions)
        recorded = wrapped.step(actions)[4]
        total += reward
        if step % 4 == 3:
            episode = info["final_info"]["episode"]
            assert np.allclose(episode["r"], total, rtol=1e-12) and episode["l"].tolist() == [4, 4, 4]
            assert np.array_equal(recorded["episode"]["r"], episode["r"])
            assert np.array_equal(recorded["episode"]["l"], episode["l"])
            total[:] = 0
    plain.close()
    wrapped.close()


def test_actions_have_one_shape() -> None:
    envs = custom()
    envs.reset()
    for wrong in (np.zeros(4), np.zeros((3, 3)), np.zeros((1, 4)), np.zeros((3, 1, 4))):
        with pytest.raises(UserError, match=r"of shape \(3, 4\)"):
            envs.step(wrong)
    envs.close()


def test_many_failures_are_said_a_few_times_and_leave_no_file(
    elsewhere: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = custom(num_envs=9)
    envs.reset()
    info: Any = {}
    for _ in range(5):
        info = envs.step(np.full((9, 4), np.nan, np.float32))[4]
    assert info["faults"].tolist() == [5] * 9
    assert 1 <= len(caplog.records) <= 12 and list(elsewhere.iterdir()) == []
    assert capfd.readouterr().out == ""
    envs.close()


def test_pictures_and_films(elsewhere: Path) -> None:
    from mtrl.envs.offscreen import offscreen_backend
    from mtrl.monitoring.video import RenderingUnavailable

    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    envs: MetaWorldVectorEnv = custom(render_mode="rgb_array", width=64, height=48, num_envs=6)
    envs.reset(seed=0)
    before = envs.render()
    for _ in range(20):
        envs.step(np.tile(np.array([1, 1, 1, 0], np.float32), (6, 1)))
    after = envs.render()
    assert before is not None and after is not None and len(after) == 6
    assert all(picture.shape == (48, 64, 3) and picture.std() > 5 for picture in after)
    assert all((a != b).any() for a, b in zip(before, after, strict=True)), "arms have moved"
    envs.close()
    with pytest.raises(UserError, match="`camera_name` should be one of"):
        custom(render_mode="rgb_array", camera_name="nowhere").render()
