"""Policy reuse: whose policy an unsolved task takes over, and that it then acts as that task does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs import toy
from mtrl.networks import NETWORKS
from mtrl.training.on_policy import OnPolicyTrainer
from mtrl.training.reuse import PolicyReuse, find_sources

SMALL = [
    "benchmark=toy", "benchmark.num_tasks=4", "benchmark.horizon=20", "agent=ppo", "training=on_policy", "device=cpu",
    "network.width=16", "network.depth=1", "training.envs_per_task=3", "training.rollout_steps=8", "agent.epochs=1",
    "agent.minibatches=2", "agent.target_kl=null", "steps=240", "training.reuse_episodes=2",
]  # fmt: skip


class Levels:
    """Tasks whose episodes last three steps. An action a gives a reward of table[task][a], and 9 or more solves."""

    def __init__(self, table: list[list[float]], copies: int) -> None:
        self.table, self.num_tasks, self.envs_per_task = np.array(table), len(table), copies
        self.close = lambda: None
        self.played: list[FloatArray] = []

    def reset(self) -> FloatArray:
        self.step_number = 0
        return np.repeat(np.arange(self.num_tasks, dtype=np.float64)[:, None, None], self.envs_per_task, 1)

    def step(self, action: FloatArray) -> StepResult:
        chosen = action[..., 0].astype(int)
        self.played.append(chosen)
        self.step_number += 1
        reward = np.take_along_axis(self.table, chosen, 1)
        observation = np.repeat(np.arange(self.num_tasks, dtype=np.float64)[:, None, None], self.envs_per_task, 1)
        over = np.full(reward.shape, self.step_number % 3 == 0)
        return StepResult(observation, reward, over & False, over, observation, reward >= 9)


def constant(observation: FloatArray) -> FloatArray:
    """The policy by which task t plays action t, whatever it sees."""
    return np.repeat(np.arange(float(len(observation)))[:, None, None], observation.shape[1], 1)


def test_unsolved_tasks_get_the_policy_that_solves_most_or_else_has_the_largest_return() -> None:
    table = [
        [1.0, 5.0, 2.0, 0.0, 6.0],  # unsolved; task 1's policy has the largest return of the two solved tasks'
        [0.0, 9.0, 9.5, 9.9, 9.9],  # solved: nothing is tried
        [4.0, 5.0, 2.0, 9.0, 9.5],  # unsolved; task 3's policy solves it
        [0.0, 0.0, 9.5, 9.0, 9.9],  # solved
        [1.0, 1.0, 0.0, 1.5, 2.0],  # unsolved, but its own policy is the best
    ]
    envs = Levels(table, 2)
    found = find_sources(constant, cast("Any", envs), 2, np.array([0, 2, 4]))
    assert found.task.tolist() == [1, 1, 3, 3, 4]
    assert found.success.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert found.own_returns.tolist() == [3.0, 27.0, 6.0, 27.0, 6.0]
    assert found.returns.tolist() == [15.0, 27.0, 27.0, 27.0, 6.0]
    assert found.steps == 3 * 5 * 2 * 3, "the own policies and two others, in five tasks, two episodes, three steps"
    assert all((played[[1, 3]].T == [1, 3]).all() for played in envs.played), "solved tasks act as before"


def test_nothing_is_tried_where_everything_is_solved() -> None:
    envs = Levels([[9.0, 9.0], [0.0, 9.0]], 2)
    found = find_sources(constant, cast("Any", envs), 2, np.array([], int))
    assert found.task.tolist() == [0, 1] and found.steps == 2 * 2 * 3


def test_nothing_is_tried_where_nothing_is_solved() -> None:
    found = find_sources(constant, cast("Any", Levels([[0.0, 2.0], [5.0, 1.0]], 2)), 2, np.array([0, 1]))
    assert found.task.tolist() == [0, 1] and found.steps == 2 * 2 * 3


def episodes(*solved: int) -> Any:
    """A rollout in which four episodes of each task ended, so many of them solved."""
    success = torch.tensor([[n > k for k in range(4)] for n in solved]).float().unsqueeze(-1)
    return SimpleNamespace(ended=torch.ones_like(success), success=success)


def test_tasks_that_solve_few_training_episodes_try_and_are_then_left_alone_once() -> None:
    table = [[1.0, 9.0, 9.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0]]  # task 1's policy solves all three tasks
    spec = SimpleNamespace(tasks=("a", "b", "c"), num_tasks=3, tells_success=True)
    suite = SimpleNamespace(spec=spec, make_evaluation_envs=lambda _, episodes, __: Levels(table, episodes))
    taken: list[list[int]] = []
    agent = SimpleNamespace(
        announce=lambda _: None, check_reuse=lambda: None, take_over=lambda source: taken.append(source.tolist())
    )
    config = SimpleNamespace(reuse_every=10, reuse_episodes=2, reuse_below=0.25, protocol="goals")
    reuse = PolicyReuse(config, cast("Any", agent), cast("Any", suite), 1)
    assert not reuse.is_due(9) and reuse.is_due(10)
    for step in (10, 20, 30):
        reuse.observe(episodes(0, 4, 1))  # a quarter is not less than a quarter
        reuse.take_over(constant, step)
    assert [(fact["step"], fact["task"], fact["source"]) for fact in reuse.taken_over] == [
        (10, "a", "b"),
        (30, "a", "b"),
    ]
    assert taken == [[1, 1, 2], [1, 1, 2]]
    assert not reuse.is_due(39) and reuse.is_due(40)
    reuse.take_over(constant, 60)
    assert len(taken) == 2, "no episode has ended since the last trial"


def trainer(*options: str) -> tuple[Any, OnPolicyTrainer]:
    parts = experiment.Experiment(experiment.compose([*SMALL, *options]))
    return parts.agent, cast("OnPolicyTrainer", parts.trainer.start())


@pytest.mark.parametrize("network", sorted(set(NETWORKS.kinds) - {"superposition"}))
def test_a_task_acts_as_its_source_does_and_is_free_to_differ_later(network: str) -> None:
    agent, loop = trainer(f"network={network}", "network.depth=2")
    for _ in range(8):
        loop.advance()
    observation = torch.randn(1, 5, loop.suite.spec.observation_size).expand(4, -1, -1).contiguous()
    before = agent.actor(agent._normalised("observation", observation))
    assert not torch.allclose(before[0], before[2])
    agent.take_over(torch.tensor([2, 1, 2, 0]))
    after = agent.actor(agent._normalised("observation", observation))
    torch.testing.assert_close(after, before[[2, 1, 2, 0]])
    for _ in range(8):
        loop.advance()
    after = agent.actor(agent._normalised("observation", observation))
    assert not torch.allclose(after[0], after[2]), "each has its own rewards"


def test_the_optimisers_moments_are_taken_over_too() -> None:
    agent, loop = trainer("network=multi_head")
    for _ in range(8):
        loop.advance()
    states = agent.actor_optimizer.optimizer.state
    before = {name: states[p]["exp_avg_sq"].clone() for name, p in agent.actor.own.items()}
    agent.take_over(torch.tensor([1, 1, 3, 3]))
    for name, parameter in agent.actor.own.items():
        assert torch.equal(states[parameter]["exp_avg_sq"], before[name][[1, 1, 3, 3]])


def test_runs_reuse_when_due_and_continue_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "GOAL_RADIUS", 1.0)  # so that some tasks are solved at once
    options = ("network=multi_head", "training.reuse_every=48")
    said: list[str] = []
    agent, loop = trainer(*options)
    agent.announce = said.append
    for _ in range(20):
        loop.advance()
    second, other = trainer(*options)
    other.load_state_dict(loop.state_dict())
    for one in (loop, other):
        torch.manual_seed(1)
        for _ in range(40):
            one.advance()
    assert json.dumps(loop.facts()) == json.dumps(other.facts())
    for a, b in zip(agent.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)
    facts = loop.facts()["reuse"]
    assert {fact["step"] for fact in facts["taken_over"]} == {96}, "no episode has ended at 48"
    assert facts["env_steps"] > 0 and loop.seconds["reuse"] > 0
    assert len(facts["taken_over"]) == sum("takes over" in line for line in said) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.reuse_every=0"], "training.reuse_every"),
        (["training.reuse_every=48", "training.reuse_episodes=0"], "training.reuse_episodes"),
        (["training.reuse_every=48", "agent.normalise_observations=per_task"], "agent.normalise_observations.*shared"),
        (["training.reuse_every=48", "network=superposition"], "tasks differ only in parameters.*fixed buffers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(*options)


def test_the_result_tells_what_was_taken_over(tmp_path: Path) -> None:
    options = ["network=multi_head", "training.reuse_every=120", f"runs={tmp_path}", "video=false"]
    _, folder, result = experiment.train(experiment.compose([*SMALL, *options]))
    assert result["reuse"]["env_steps"] > 0
    assert json.loads((folder.path / "result.json").read_text())["reuse"] == result["reuse"]
