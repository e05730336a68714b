"""mtrl bench scale: training with collectors on Ray, measured with one and two, and computed for more.

PPO: each collector has the copies of one machine, so that a rollout grows with their number (`training.workers`). What
is computed takes the measured seconds and bytes: collectors work at the same time, each on a core of its own; the
learner receives all steps and sends all policies through one network card; its update takes time in proportion to the
steps.

SAC: collectors work while the learner makes the updates for the steps before, one for every eight steps of each task.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any, NamedTuple

from mtrl.bench.report import machine
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.monitoring.progress import counted

MEASURED, COMPUTED = (1, 2), (10, 100, 1000)
NETWORK = 1.25e9
"""Bytes a second that the learner's network card is taken to carry: 10 Gbit/s."""
ROLLOUTS, COPIES = 4, 8
CALLS = 60
"""Calls of SAC's collectors that are measured."""


class Rollout(NamedTuple):
    """One rollout and its update."""

    collect: float
    """Seconds, with what the learner does to take the steps over."""
    update: float
    sent: dict[str, float]
    """Bytes of policy, noise, steps and states, to and from all collectors."""


def measure(quick: bool = False) -> dict[str, Any]:
    """MT10 with the sizes of `recipe=quick`.

    Raises:
        UserError: Ray is missing, or the machine has fewer than two cores.
    """
    size = 20 if quick else 500
    found = {workers: _rollouts(workers, size, 1 if quick else ROLLOUTS) for workers in MEASURED}
    rows = [row_of(workers, size, median_of(rollouts)) for workers, rollouts in found.items()]
    one = median_of(found[1])
    rows += [row_of(workers, size, computed(workers, one), is_computed=True) for workers in COMPUTED]
    for row in rows:
        row["of_one"] = row["env_steps_per_second"] / rows[0]["env_steps_per_second"]
    rows += [_asynchronous(workers, 4 if quick else CALLS) for workers in MEASURED]
    return {"bench": "scale", "machine": machine(), "network_bytes_per_second": NETWORK, "rows": rows}


def _rollouts(workers: int, size: int, number: int) -> list[Rollout]:
    options = [f"training.rollout_steps={size}", f"training.envs_per_task={COPIES * workers}", "device=cpu"]
    collectors = ["collector=ray", f"collector.workers={workers}"]
    trainer: Any = Experiment(compose(["recipe=quick", *options, *collectors])).trainer.start()
    found = []
    try:
        for _ in counted(range(1 + number), f"rollouts of {workers}"):  # the first one also starts the collectors
            begin, before, sent = time.perf_counter(), trainer.seconds["update"], dict(trainer.collector.bytes)
            while trainer.advance() is None:
                pass
            update = trainer.seconds["update"] - before
            sent = {name: value - sent[name] for name, value in trainer.collector.bytes.items()}
            found.append(Rollout(time.perf_counter() - begin - update, update, sent))
    finally:
        trainer.close()
    return found[1:]


def median_of(rollouts: list[Rollout]) -> Rollout:
    """The median of each number."""
    sent = {name: median(rollout.sent[name] for rollout in rollouts) for name in rollouts[0].sent}
    collect, update = (median(getattr(rollout, name) for rollout in rollouts) for name in ("collect", "update"))
    return Rollout(collect, update, sent)


def computed(workers: int, one: Rollout) -> Rollout:
    """A rollout of many collectors, from that of one."""
    sent = {name: value * workers for name, value in one.sent.items()}
    return Rollout(one.collect + sum(sent.values()) / NETWORK, one.update * workers, sent)


def row_of(workers: int, size: int, found: Rollout, is_computed: bool = False) -> dict[str, Any]:
    steps = 10 * COPIES * size * workers
    total = found.collect + found.update
    return {
        "learner": "ppo",
        "collectors": workers,
        "from": "computed" if is_computed else "measured",
        "env_steps_per_second": steps / total,
        "collect_s": found.collect,
        "update_s": found.update,
        "update_share": found.update / total,
        "bytes_per_env_step": (found.sent["steps"] + found.sent["noise"]) / steps,
        "policy_mb": found.sent["policy"] / workers / 1e6,
        "states_kb": found.sent["states"] / workers / 1e3,
        "staleness": 0,
    }


def _asynchronous(workers: int, calls: int) -> dict[str, Any]:
    """SAC: steps a second, bytes, and how many updates policies were behind."""
    options = ["agent.batch_size=64", "training.learning_starts=1", f"training.envs_per_task={COPIES * workers}"]
    options += ["training.update_to_data=0.125", "network.width=64", "collector=ray", f"collector.workers={workers}"]
    trainer: Any = Experiment(compose(["benchmark=mt10", "device=cpu", *options])).trainer.start()
    try:
        for _ in range(2 * workers):  # the first ones also start the collectors
            trainer.advance()
        trainer.report()
        begin, step, before = time.perf_counter(), trainer.step, dict(trainer.collector.bytes)
        update, metrics = trainer.seconds["update"], {}
        for _ in counted(range(calls), f"calls of {workers}"):
            metrics = trainer.advance() or metrics
        seconds, steps = time.perf_counter() - begin, 10 * (trainer.step - step)
        sent = {name: value - before[name] for name, value in trainer.collector.bytes.items()}
        return {
            "learner": "sac",
            "collectors": workers,
            "from": "measured",
            "env_steps_per_second": steps / seconds,
            "update_share": (trainer.seconds["update"] - update) / seconds,
            "bytes_per_env_step": sum(sent.values()) / steps,
            "policy_mb": sent["policy"] / calls / 1e6,
            "states_kb": sent["states"] / calls / 1e3,
            "staleness": float(metrics["collector/staleness"]),
            "largest_staleness": float(metrics["collector/largest_staleness"]),
        }
    finally:
        trainer.close()
