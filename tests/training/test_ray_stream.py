"""Collection while the learner learns, with a stand-in for Ray: counts of steps, stale policies, and refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.training import ray_collector
from mtrl.training.ray_stream import must_wait
from tests.support.collections import StandIn, Watch

SMALL = [
    "benchmark=toy", "device=cpu", "network.width=8", "network.depth=1", "agent.batch_size=4", "collector=ray",
    "training.learning_starts=50", "training.update_to_data=0.25", "training.collector_steps=5",
]  # fmt: skip


def trainer(monkeypatch: pytest.MonkeyPatch, seed: int, deaths: float, *options: str) -> Any:
    stand_in = StandIn(seed, deaths)
    # The stand-in has no worker's process to bind to a core.
    monkeypatch.setattr(ray_collector, "free_cores", lambda _: StandIn.nothing())
    monkeypatch.setattr(ray_collector, "connected", stand_in.connected)
    return experiment.Experiment(experiment.compose([*SMALL, *options])).trainer.start()


@pytest.mark.parametrize("agent", ["sac", "td3"])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_step_counts_once_though_collectors_die_and_the_run_is_resumed(
    agent: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = workers * -(-5 * 4 // workers // 4)
    options = [f"agent={agent}", "training.envs_per_task=4", f"collector.workers={workers}"]
    loop = trainer(monkeypatch, 3, 0.2, *options, f"training.max_staleness={least}")
    watch, metrics = Watch(loop), dict[str, Any]()
    for steps in range(100, 500, 100):
        metrics = watch.learn(steps)
    assert loop.collector.lost > 0 and max(watch.stale) <= least
    assert metrics["collector/largest_staleness"] <= least and loop.report()["return"].shape == (4,)
    state, data = loop.state_dict(), loop.data_state()
    other = trainer(monkeypatch, 4, 0.2, *options, "seed=9", f"training.max_staleness={least}")
    going_on = Watch(other)
    other.load_state_dict(state)
    other.load_data_state(data)
    going_on.ends |= watch.ends
    going_on.learn(600)
    assert other.collector.bytes["steps"] > 0
    for made in (loop, other):
        made.close()


def test_random_actions_are_uniform_until_learning_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = trainer(monkeypatch, 0, 0.0, "training.learning_starts=3000", "training.envs_per_task=4")
    actions: list[Any] = []
    take = loop.collector.take
    loop.collector.take = lambda version: actions.append(found := take(version)) or found
    while loop.step < 3000:
        loop.advance()
    drawn = torch.cat([torch.tensor(arrival.block.action).flatten() for arrival in actions]).double()
    assert loop.updates == 5 and drawn.abs().max() <= 1
    quantiles = torch.quantile(drawn[:20_000], torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    torch.testing.assert_close(quantiles, torch.linspace(-0.8, 0.8, 9, dtype=torch.float64), atol=0.03, rtol=0)
    loop.close()


def test_stored_actions_are_those_that_the_environments_have_played(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = trainer(monkeypatch, 0, 0.0, "agent=td3", "agent.exploration_noise=[0.9]", "training.learning_starts=5")
    while loop.step < 100:
        loop.advance()
    action = loop.replay.ordered().action
    assert action.abs().max() == 1, "some noise leads beyond the limits"
    loop.close()


def test_a_lost_result_is_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = trainer(monkeypatch, 0, 0.0)
    ray, lost = loop.collector._ray, type("ObjectLostError", (Exception,), {})
    get, calls = ray.get, iter(range(100))
    monkeypatch.setattr(ray.exceptions, "ObjectLostError", lost, raising=False)

    def losing(call: Any) -> Any:
        found = get(call)
        if next(calls) == 1:
            raise lost
        return found

    monkeypatch.setattr(ray, "get", losing)
    Watch(loop).learn(30)
    assert loop.collector.lost == 1
    loop.close()


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("slack", [0, 3, 40])
def test_no_policy_is_older_than_allowed_whichever_collector_is_slow(workers: int, slack: int) -> None:
    """The learner takes the steps of a random call, unless it must wait for the oldest one."""
    each, draw, oldest, free = 5, random.Random(workers + slack), 0, 0
    most, updates = workers * each + slack, 0
    sent = [0] * workers
    for _ in range(3000):
        ages = [updates - version for version in sent]
        slow = ages.index(max(ages))
        waits = must_wait(ages, each, most)
        free += not waits
        chosen = slow if waits else draw.choice([w for w in range(workers) if w != slow] or [slow])
        oldest = max(oldest, ages[chosen])
        sent[chosen] = updates
        updates += draw.randint(each - 1, each)
    assert oldest <= most
    assert free > 0 or slack == 0, "it waits only where it must"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["collector.workers=2", "training.envs_per_task=2"], "`training.workers` should be 1 without collector=ray"),
        (["collector=ray", "training.max_staleness=24"], "`training.max_staleness` should be 25 or more"),
        (["collector=ray", "collector.workers=2"], "`training.workers` should be a divisor of training.envs_per_task"),
        (["collector=ray", "training.collector_steps=0"], "`training.collector_steps` should be a positive integer"),
        (["collector=ray", "agent.n_step=3"], "`agent.n_step` should be 1 with training.collector=ray"),
        (["collector=ray", "agent.normalise_rewards=true"], "`agent.normalise_rewards` should be false with"),
        (
            ["collector=ray", "benchmark=pushing"],
            "`training.collector` should be 'local' with a benchmark whose",
        ),
    ],
)
def test_what_other_processes_cannot_collect_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment.Experiment(experiment.compose(["benchmark=toy", "device=cpu", *options])).trainer.start()


def test_a_run_with_collectors_starts_from_no_other() -> None:
    made = experiment.Experiment(experiment.compose(["benchmark=toy", "device=cpu", "training.collector=ray"]))
    with pytest.raises(UserError, match=r"`training\.collector` should be local for a run with `start`"):
        made.trainer.begin_from(None)
