"""The on-policy loop: what it collects, exact resume in the middle of a rollout, and a suite that PPO solves."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.envs.toy import ToySuite
from mtrl.training import ray_collector
from mtrl.training.on_policy import OnPolicyTrainer
from tests.support.collections import StandIn

SMALL = [
    "benchmark=toy", "agent=ppo", "training=on_policy", "device=cpu", "network.width=16", "network.depth=1",
    "training.envs_per_task=3", "training.rollout_steps=8", "agent.epochs=2", "agent.minibatches=2", "steps=240",
]  # fmt: skip


def trainer(*options: str) -> tuple[experiment.Experiment, OnPolicyTrainer]:
    parts = experiment.Experiment(experiment.compose([*SMALL, *options]))
    return parts, cast("OnPolicyTrainer", parts.trainer.start())


def test_a_rollout_is_of_one_policy_and_is_learned_from_when_it_is_full() -> None:
    _, loop = trainer("agent.target_kl=null")
    for step in range(1, 25):
        metrics = loop.advance()
        assert loop.step == 3 * step
        assert (metrics is not None) == (step % 8 == 0)
        assert loop.updates == step // 8 * 2 * 2
        assert loop.rollout.filled == step % 8


def test_acting_takes_one_thread_and_learning_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, loop = trainer()
    used: dict[str, set[int]] = {"explore": set(), "learn": set()}
    explore, learn = parts.agent.explore, parts.agent.learn

    def spied(name: str, call: Any, *arguments: Any) -> Any:
        used[name].add(torch.get_num_threads())
        return call(*arguments)

    monkeypatch.setattr(parts.agent, "explore", partial(spied, "explore", explore))
    monkeypatch.setattr(parts.agent, "learn", partial(spied, "learn", learn))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for _ in range(8):
        loop.advance()
    torch.set_num_threads(before)
    assert used == {"explore": {1}, "learn": {2}}


def test_successors_are_true_and_episodes_end_where_they_end() -> None:
    _, loop = trainer("benchmark.horizon=5")
    for _ in range(7):
        loop.advance()
    ended = loop.rollout.ended[:, :7].bool()
    assert ended[:, 4].all() and not ended[:, :4].any() and not loop.rollout.terminated.any()
    follows = loop.rollout.next_observation[:, :6] == loop.rollout.observation[:, 1:7]
    assert follows.all(-1)[~ended[:, :6]].all() and not follows.all(-1)[ended[:, :6]].any()


def test_parts_of_the_environments_give_the_transitions_that_all_together_give() -> None:
    """Up to rounding: matrix products of other sizes may be rounded differently."""
    found = []
    for workers in (1, 3):
        _, loop = trainer("training.envs_per_task=6", f"training.workers={workers}", "benchmark.horizon=5")
        for _ in range(7):
            loop.advance()
        found.append(loop.rollout.state_dict())
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-5, atol=1e-6)


def test_parts_divide_the_environments_evenly() -> None:
    with pytest.raises(UserError, match=r"`training.workers` should be a divisor of training.envs_per_task \(3\)"):
        trainer("collector.workers=2")


@pytest.mark.parametrize("collector", ["local", "ray"])
def test_only_environments_in_parts_need_a_benchmark_that_divides_them(
    collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ToySuite.make_envs
    monkeypatch.setattr(ToySuite, "make_envs", lambda self, seed, envs_per_task: make(self, seed, envs_per_task))
    trainer()
    with pytest.raises(UserError, match=r"`training.workers` should be 1 with a benchmark whose `make_envs` has no"):
        trainer(f"collector={collector}", "collector.workers=3")


@pytest.mark.parametrize("collector", ["local", "ray"])
def test_no_step_is_taken_beyond_the_last_one_and_progress_never_exceeds_one(
    collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_collector, "free_cores", lambda _: StandIn.nothing())
    monkeypatch.setattr(ray_collector, "connected", StandIn(0, 0.0).connected)
    progress = list[float]()
    for steps in (47, 58):  # the last rollout is full, or not
        parts, loop = trainer(f"steps={steps}", f"collector={collector}")
        monkeypatch.setattr(parts.agent, "learn", lambda _, share: (progress.append(share), ({}, 1))[1])
        while loop.step < steps:
            loop.advance()
        assert loop.step == -(-steps // 3) * 3 and loop.updates == 2
    assert progress == [24 / 47, 1.0, 24 / 58, 48 / 58]


@pytest.mark.parametrize(("steps", "told"), [(21, 1), (22, 0)])
def test_a_run_without_a_full_rollout_says_that_it_learns_nothing(steps: int, told: int) -> None:
    parts, loop = trainer(f"steps={steps}")
    said: list[str] = []
    parts.agent.announce = said.append
    while loop.step < steps:
        loop.advance()
    assert [line.startswith("No updates: the first rollout ends after 24 steps") for line in said] == [True] * told
    assert (loop.updates == 0) == bool(told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["agent.minibatches=25"], "agent.minibatches=25 should be 25 or more samples.* Found 24"),
        (["agent.minibatches=1", "training.envs_per_task=1", "training.rollout_steps=1"], "2 or more samples"),
        (["agent.minibatches=1", "weighting=auto_lambda"], "`agent.minibatches` should be 2 or more with"),
    ],
)
def test_rollouts_too_small_for_their_minibatches_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(*options)


@pytest.mark.parametrize("stop", [3, 8, 21])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_goes_on_from_the_middle_of_a_rollout_bit_for_bit(stop: int, workers: int) -> None:
    options = ["agent.normalise_rewards=true", "surgery=pcgrad", f"training.workers={workers}"]
    (one, first), (other, second) = trainer(*options), trainer(*options, "seed=9")
    for _ in range(stop):
        first.advance()
    state = first.state_dict()
    second.load_state_dict(state)
    for _ in range(20):
        first.advance()
        second.advance()
    pairs = zip(one.agent.actor.parameters(), other.agent.actor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.report().keys() == second.report().keys() == {"success", "return"}


def test_environments_in_one_part_are_also_read_without_a_list() -> None:
    """As the first checkpoints have them."""
    (_, first), (_, second) = trainer(), trainer("seed=9")
    for _ in range(11):
        first.advance()
    state = first.state_dict()
    second.load_state_dict(state | {"envs": state["envs"][0]})
    for loop in (first, second):
        loop.advance()
    assert torch.equal(first.rollout.observation[:, :4], second.rollout.observation[:, :4])


@pytest.mark.parametrize("options", [[], ["surgery=pcgrad", "network=film"], ["agent.value_head=hl_gauss"]])
def test_it_solves_the_toy_and_without_rewards_it_does_not(options: list[str]) -> None:
    size = ["network.width=64", "network.depth=2", "training.envs_per_task=16", "training.rollout_steps=32"]
    learning = ["agent.gamma=0.9", "agent.epochs=8", "agent.minibatches=4", "agent.learning_rate=1e-3", "steps=20000"]
    found = []
    for shuffled in (False, True):
        _, loop = trainer(*size, *learning, *options, f"benchmark.shuffled_rewards={shuffled}")
        while loop.step < loop.steps:
            loop.advance()
        found.append(loop.evaluate(20, "goals").per_task["success"])
        loop.close()
    assert found[0].min() > 0.9 and found[1].mean() < 0.5


def test_its_policy_is_played_and_loaded(tmp_path: object) -> None:
    parts, loop = trainer()
    observation = torch.zeros(4, 2, 6)
    expected = parts.agent.act(observation, explore=False).numpy()
    assert (loop.policy(observation.numpy()) == expected).all() and abs(expected).max() <= 1
