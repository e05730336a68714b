"""Evaluation: which episodes count, and agreement with Meta-World's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import metaworld
import metaworld.env_dict
import metaworld.evaluation
import numpy as np
import pytest
import torch
from metaworld.policies import ENV_POLICY_MAP

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs.metaworld.package_envs import PackageEnvs
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from mtrl.envs.metaworld.suite import MetaWorldSuite
from mtrl.training.evaluation import evaluate, greedy


class ScriptedEnvs:
    """Episode k of copy n of task t lasts `length[t, n, k]` steps, with reward 1 a step, and ends as it is told."""

    def __init__(self, length: np.ndarray, success: np.ndarray) -> None:
        self.num_tasks, self.envs_per_task, _ = length.shape
        self.length, self.success = length, success
        self.reset()

    def reset(self, seed: int | None = None) -> FloatArray:
        self.episode = np.zeros((self.num_tasks, self.envs_per_task), int)
        self.steps = np.zeros_like(self.episode)
        return np.zeros((self.num_tasks, self.envs_per_task, 1))

    def step(self, action: FloatArray) -> StepResult:
        self.steps += 1
        now = np.expand_dims(self.episode % self.length.shape[2], 2)
        ended = self.steps >= np.take_along_axis(self.length, now, 2)[..., 0]
        success = ended & np.take_along_axis(self.success, now, 2)[..., 0]
        self.steps[ended] = 0
        self.episode += ended
        nothing = np.zeros((*ended.shape, 1))
        return StepResult(nothing, np.ones(ended.shape), success, ended & ~success, nothing, success)

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Any) -> FloatArray:
        raise NotImplementedError

    def close(self) -> None: ...


@pytest.mark.parametrize(("copies", "episodes"), [(1, 7), (3, 7), (4, 8), (5, 3)])
def test_which_episodes_count_is_settled_before_they_start(copies: int, episodes: int) -> None:
    """Episode e is the (e div N)-th of copy e mod N, however long the others last; successes being short is no help."""
    rng = np.random.default_rng(0)
    success = rng.random((2, copies, 10)) < 0.5
    length = np.where(success, 1, 20) + rng.integers(0, 3, success.shape)
    result = evaluate(lambda observation: observation, ScriptedEnvs(length, success), episodes)
    k, n = np.divmod(np.arange(episodes), copies)
    assert np.array_equal(result.success, success[:, n, k])
    assert np.array_equal(result.lengths, length[:, n, k])
    assert np.array_equal(result.returns, length[:, n, k])
    assert np.array_equal(result.success_rate, success[:, n, k].mean(1))


def test_progress_and_json() -> None:
    seen = []
    envs = ScriptedEnvs(np.full((2, 3, 1), 4), np.full((2, 3, 1), True))
    result = evaluate(lambda observation: observation, envs, 5, lambda done, total: seen.append((done, total)))
    assert seen == [(6, 10), (10, 10)]
    report = json.loads(json.dumps(result.to_json(["a", "b"])))
    assert report["mean_success"] == 1 and report["tasks"]["b"]["returns"] == [4.0] * 5


def test_no_episodes_are_refused() -> None:
    with pytest.raises(UserError, match=r"--episodes or training\.final_episodes"):
        evaluate(lambda observation: observation, ScriptedEnvs(np.ones((1, 1, 1)), np.ones((1, 1, 1), bool)), 0)


TASKS = ("reach-v3", "drawer-close-v3", "window-open-v3", "push-v3")
EPISODES, HORIZON = 3, 100


def noisy_script(task: str) -> Callable[[np.ndarray], np.ndarray]:
    """Meta-World's scripted policy, disturbed by a function of only the observation."""
    script = ENV_POLICY_MAP[task]()
    weights = np.random.default_rng(5).normal(size=(4, 39))
    return lambda seen: np.clip(script.get_action(seen) + 0.6 * np.sin(40 * (weights @ seen)), -1, 1).astype(np.float32)


class Agent:
    """Our policy under Meta-World's protocol."""

    def __init__(self, actors: list[Callable[[np.ndarray], np.ndarray]]) -> None:
        self.actors = actors

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        return np.stack([actor(seen) for actor, seen in zip(self.actors, observations, strict=True)])

    def reset(self, env_mask: np.ndarray) -> None: ...


@pytest.mark.filterwarnings("ignore:Constant.s. may be too high:UserWarning")
def test_agrees_with_the_package_on_the_same_policy_and_goals() -> None:
    goals = MetaWorldSuite(MetaWorldConfig("custom", tasks=list(TASKS))).goals(7)
    agent = Agent([noisy_script(task) for task in TASKS])
    classes = metaworld.env_dict.ALL_V3_ENVIRONMENTS
    options: dict[str, Any] = {"seed": 1, "max_episode_steps": HORIZON, "task_select": "pseudorandom"}
    theirs = gymnasium.vector.SyncVectorEnv(
        [partial(metaworld._init_each_env, env_cls=classes[t], tasks=list(goals[t]), **options) for t in TASKS],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    theirs.call("toggle_sample_tasks_on_reset", True)
    _, _, success, returns = metaworld.evaluation.evaluation(agent, theirs, EPISODES)
    played: dict[str, Any] = dict(zip(TASKS, theirs.get_attr("tasks"), strict=True))
    theirs.close()

    schedule, copies = np.tile(np.arange(EPISODES), (len(TASKS), 1)), 2
    envs = PackageEnvs(played, 0, copies, horizon=HORIZON, terminate_on_success=True, schedule=schedule)
    each = [Agent([actor] * copies) for actor in agent.actors]
    ours = evaluate(
        lambda seen: np.stack([agent.eval_action(rows) for agent, rows in zip(each, seen, strict=True)]), envs, EPISODES
    )
    assert dict(zip(TASKS, ours.success_rate, strict=True)) == success
    assert 0 < ours.success.mean() < 1
    # Where a reward of Meta-World is float32 (the gripper's effort is), its sum is too; all else is the same.
    for task, mine in zip(TASKS, ours.returns, strict=True):
        assert list(mine) == (pytest.approx(returns[task], rel=1e-6) if task == "drawer-close-v3" else returns[task])


@pytest.mark.parametrize("offset", [0, 1, 3, 8])
def test_a_policy_sees_observations_where_pytorch_puts_arrays(offset: int) -> None:
    """On some processors, rounding depends on where an array begins. The agent's always begins at a cache line."""
    seen: list[torch.Tensor] = []

    class Agent:
        def act(self, observation: torch.Tensor, explore: bool) -> torch.Tensor:
            assert not explore
            seen.append(observation)
            return observation

    observation = np.arange(offset + 24, dtype=np.float32)[offset:].reshape(2, 3, 4)
    assert np.array_equal(greedy(Agent())(observation), observation)
    assert seen[0].data_ptr() % 64 == 0 and seen[0].is_contiguous()


@pytest.mark.parametrize("training", ["off_policy", "on_policy", "collected"])
def test_a_run_with_fewer_goals_than_evaluations_need_is_refused_before_its_first_step(training: str) -> None:
    kind = {"on_policy": ["agent=ppo", "training=on_policy"], "collected": ["collector=ray"]}.get(training, [])
    few = ["benchmark=mt1", "task=reach-v3", "benchmark.num_goals=10", "device=cpu", "network=mlp", *kind]
    often = ["training.final_episodes=10", "training.evaluation_episodes=11", "training.evaluate_every=5"]
    for options, name in (([], "final_episodes"), (often, "evaluation_episodes")):
        made = experiment.Experiment(experiment.compose([*few, *options]))
        with pytest.raises(UserError, match=f"`training.{name}` should be at most 10"):
            made.trainer.start()
