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
from mtrl.training import reuse
from mtrl.training.control import EpisodeStatistics
from mtrl.training.evaluation import evaluate
from mtrl.training.on_policy import OnPolicyTrainer
from mtrl.training.reuse import PolicyReuse, Sources, find_sources

SMALL = [
    "benchmark=toy", "benchmark.num_tasks=4", "benchmark.horizon=20", "agent=ppo", "training=on_policy", "device=cpu",
    "network.width=16", "network.depth=1", "training.envs_per_task=3", "training.rollout_steps=8", "agent.epochs=1",
    "agent.minibatches=2", "agent.target_kl=null", "steps=240", "training.reuse_episodes=2",
]  # fmt: skip


class Levels:
    """Tasks whose episodes last six steps at most. An action a gives a reward of table[task][a]; 9 or more solves the
    task and ends the episode, after as many steps as are above 9."""

    def __init__(self, table: list[list[float]], copies: int) -> None:
        self.table, self.num_tasks, self.envs_per_task = np.array(table), len(table), copies
        self.played: list[FloatArray] = []

    def close(self) -> None:
        pass

    def reset(self) -> FloatArray:
        self.length = np.zeros((self.num_tasks, self.envs_per_task))
        return np.zeros((self.num_tasks, self.envs_per_task, 1))

    def step(self, action: FloatArray) -> StepResult:
        chosen = action[..., 0].astype(int)
        self.played.append(chosen)
        self.length += 1
        reward = np.take_along_axis(self.table, chosen, 1)
        solved = (reward >= 9) & (self.length > reward - 9)
        truncated = ~solved & (self.length == 6)
        self.length[solved | truncated] = 0
        seen = np.zeros((self.num_tasks, self.envs_per_task, 1))
        return StepResult(seen, reward, solved, truncated, seen, solved)


def constant(observation: FloatArray, *subset: Any) -> FloatArray:
    """The policy by which task t plays action t, whatever it sees."""
    acting = subset[0].task.numpy() if subset else np.arange(len(observation))
    return np.repeat(acting[:, None, None].astype(float), observation.shape[1], 1)


def mask(*tasks: int) -> Any:
    return np.isin(np.arange(6), tasks)


TABLE = [
    [1.0, 3.0, 8.0, 2.5, 0.0, 0.0],  # tasks 1 and 3 lend; neither solves this one, and 1's policy has the larger return
    [0.0, 9.0, 0.0, 0.0, 0.0, 0.0],  # solved
    [4.0, 12.0, 2.0, 10.0, 9.0, 0.0],  # 3's policy solves it sooner than 1's, 4's does not count
    [0.0, 0.0, 9.0, 9.0, 9.0, 0.0],  # solved
    [1.0, 3.0, 0.0, 3.0, 2.0, 0.0],  # other policies' returns are larger, but less than twice as large
    [0.0, 9.0, 0.0, 0.0, 0.0, 13.0],  # its own policy solves it, though 1's does so sooner
]


def test_borrowers_get_the_policy_that_solves_most_or_else_has_by_far_the_largest_return() -> None:
    envs = Levels(TABLE, 2)
    found = find_sources(constant, cast("Any", envs), 2, mask(0, 2, 4, 5), mask(1, 3))
    assert found.task.tolist() == [1, 1, 3, 3, 4, 5]
    assert found.success.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    assert found.own_returns.tolist() == [6.0, 9.0, 12.0, 9.0, 12.0, 65.0]
    assert found.returns.tolist() == [18.0, 9.0, 20.0, 9.0, 12.0, 65.0]
    own, others = 2 * (6 + 1 + 6 + 1 + 6 + 5), [2 * (6 + 1 + length + 1 + 6 + 5) for length in (4, 2)]
    assert found.steps == own + sum(others)
    assert all((played[[1, 3, 5]].T == [1, 3, 5]).all() for played in envs.played), "solved tasks act as before"


@pytest.mark.parametrize(("borrowers", "lenders"), [((), (1, 3)), ((0, 2), ()), ((5,), (1, 3)), ((0,), (2, 4))])
def test_nothing_is_tried_without_unsolved_borrowers_or_without_lenders_that_solve(
    borrowers: tuple[int, ...], lenders: tuple[int, ...]
) -> None:
    found = find_sources(constant, cast("Any", Levels(TABLE, 2)), 2, mask(*borrowers), mask(*lenders))
    assert found.task.tolist() == [0, 1, 2, 3, 4, 5] and found.steps == 2 * (6 + 1 + 6 + 1 + 6 + 5)


def test_tasks_that_solve_few_training_episodes_try_and_are_then_left_alone_once() -> None:
    table = [[1.0, 9.0, 9.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0]]  # task 1's policy solves all three tasks
    spec = SimpleNamespace(tasks=("a", "b", "c"), num_tasks=3, tells_success=True)
    suite = SimpleNamespace(spec=spec, make_evaluation_envs=lambda _, episodes, __: Levels(table, episodes))
    taken: list[list[int]] = []
    agent = SimpleNamespace(
        announce=lambda _: None, check_reuse=lambda: None, take_over=lambda source: taken.append(source.tolist())
    )
    config = SimpleNamespace(reuse_every=10, reuse_episodes=2, reuse_below=0.25, protocol="goals")
    parts = PolicyReuse(config, cast("Any", agent), cast("Any", suite), 1)
    statistics = SimpleNamespace(ended_ever=np.zeros((2, 3)))
    assert not parts.is_due(9) and parts.is_due(12)
    for step in (12, 23, 34):
        statistics.ended_ever += [[4, 4, 4], [0, 4, 1]]  # a quarter is not less than a quarter
        parts.take_over(constant, step, cast("Any", statistics))
    assert [(fact["step"], fact["task"], fact["source"]) for fact in parts.taken_over] == [
        (12, "a", "b"),
        (34, "a", "b"),
    ]
    assert taken == [[1, 1, 2], [1, 1, 2]]
    assert not parts.is_due(39) and parts.is_due(40)
    for step in (40, 50):
        parts.take_over(constant, step, cast("Any", statistics))
    assert len(taken) == 2, "no episode has ended since the last trial"


def test_episodes_and_successes_are_counted_once_whenever_they_are_reported() -> None:
    statistics = EpisodeStatistics(2, 1)
    zeros, no, yes = np.zeros((2, 1, 1)), np.zeros((2, 1), bool), np.ones((2, 1), bool)
    for solved, over in ((yes, no), (no, yes), (no, yes)):
        statistics.add(StepResult(zeros, np.zeros((2, 1)), over, no, zeros, solved))
        statistics.report()
    assert statistics.ended_ever.tolist() == [[2, 2], [1, 1]]


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


@pytest.fixture
def some_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the toy tasks are solved at once, and their policies are said to be the best for all borrowers."""

    def first_lender(_: Any, __: Any, ___: Any, borrowers: Any, lenders: Any) -> Sources:
        found = np.where(borrowers, lenders.argmax(), np.arange(len(borrowers)))
        numbers = np.zeros(len(borrowers))
        return Sources(found, numbers, numbers, numbers, 10)

    monkeypatch.setattr(toy, "GOAL_RADIUS", 1.0)
    monkeypatch.setattr(reuse, "find_sources", first_lender)


@pytest.mark.usefixtures("some_solved")
def test_runs_reuse_when_due_and_continue_exactly() -> None:
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
        (["training.reuse_every=48", "network=superposition"], "fixed buffers.*context"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(*options)


@pytest.mark.parametrize(("network", "seed"), [("multi_head", 0), ("film", 2), ("mlp", 1)])
def test_after_taking_over_a_task_plays_the_episodes_of_the_trial(
    network: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "GOAL_RADIUS", 0.5)
    agent, loop = trainer(f"network={network}")
    with torch.no_grad():
        torch.manual_seed(seed)
        for parameter in agent.actor.parameters():
            parameter.add_(torch.randn_like(parameter))
    envs = loop.suite.make_evaluation_envs(1, 4, "goals")
    found = find_sources(loop.policy, envs, 4, np.full(4, True), np.full(4, True))
    assert (found.task != np.arange(4)).any(), "another seed might find nothing to take over"
    agent.take_over(torch.from_numpy(found.task))
    played = evaluate(loop.policy, envs, 4)
    assert played.success_rate.tolist() == found.success.tolist()
    assert played.returns.mean(1) == pytest.approx(found.returns, rel=1e-5)


@pytest.mark.usefixtures("some_solved")
def test_the_result_tells_what_was_taken_over(tmp_path: Path) -> None:
    options = ["network=multi_head", "training.reuse_every=96", f"runs={tmp_path}", "video=false"]
    _, folder, result = experiment.train(experiment.compose([*SMALL, *options]))
    assert result["reuse"]["env_steps"] > 0
    assert json.loads((folder.path / "result.json").read_text())["reuse"] == result["reuse"]
