"""mtrl bench scale: training with Ray collectors, measured with one and two, and extrapolated to more.

PPO: each collector steps the same number of copies, so a rollout grows with the number of collectors
(`training.workers`). The extrapolated rows (`computed`) use the seconds and bytes measured with one collector. They
assume that collectors run at the same time, each on its own core, that all steps and policies pass through the
learner's one network card, and that the time of an update is proportional to the number of steps.

SAC: collectors run while the learner updates on earlier steps, once for every eight steps of each task.

`make bench-scale` also writes the tables of the result into docs/scale.md (see `mtrl.bench.pages`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from mtrl.bench.report import machine
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.monitoring.progress import counted

MEASURED, COMPUTED = (1, 2), (10, 100, 1000)
"""Numbers of collectors: those that are run, and those to which the result is extrapolated."""
NETWORK = 1.25e9
"""The assumed speed of the learner's network card in bytes per second: 10 Gbit/s."""
ROLLOUTS, COPIES = 4, 8
"""Timed rollouts of PPO, and copies of each task in each collector."""
CALLS = 60
"""Measured calls of SAC's collectors."""


class Rollout(NamedTuple):
    """The costs of one rollout and its update."""

    collect: float
    """Seconds, including those in which the learner unpacks the steps."""
    update: float
    """Seconds."""
    sent: dict[str, float]
    """{policy, noise, steps or states: bytes of these that were sent to or from all collectors}"""


def measure(quick: bool = False) -> dict[str, Any]:
    """Rows for MT10: PPO with the sizes of `recipe=quick`, and SAC with small networks and batches.

    Raises:
        UserError: Ray is not installed, or the machine has fewer than two cores.
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
        for _ in counted(range(1 + number), f"rollouts of {workers}"):  # the first rollout also starts the collectors
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
    """A rollout whose numbers are the medians of those of `rollouts`."""
    sent = {name: median(rollout.sent[name] for rollout in rollouts) for name in rollouts[0].sent}
    collect, update = (median(getattr(rollout, name) for rollout in rollouts) for name in ("collect", "update"))
    return Rollout(collect, update, sent)


def computed(workers: int, one: Rollout) -> Rollout:
    """A rollout of many collectors, extrapolated from a rollout of one."""
    sent = {name: value * workers for name, value in one.sent.items()}
    return Rollout(one.collect + sum(sent.values()) / NETWORK, one.update * workers, sent)


def row_of(workers: int, size: int, found: Rollout, is_computed: bool = False) -> dict[str, Any]:
    """A row for PPO. size: steps of each copy in a rollout; found: the rollout of all `workers` collectors."""
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
    """A row for SAC: steps per second, bytes sent, and by how many updates the collectors' policies lagged behind."""
    options = ["agent.batch_size=64", "training.learning_starts=1", f"training.envs_per_task={COPIES * workers}"]
    options += ["training.update_to_data=0.125", "network.width=64", "collector=ray", f"collector.workers={workers}"]
    trainer: Any = Experiment(compose(["benchmark=mt10", "device=cpu", *options])).trainer.start()
    try:
        for _ in range(2 * workers):  # the first calls also start the collectors
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


def on_policy_table(result: dict[str, Any]) -> list[list[str]]:
    """A table for PPO: how the time of a rollout divides into collecting and learning."""
    table = [["collectors", "", "environment steps/s", "speed-up", "a rollout's bytes", "collecting", "learning"]]
    for row in _of(result, "ppo"):
        total = (row["collect_s"] + row["update_s"]) * row["env_steps_per_second"] * row["bytes_per_env_step"]
        fixed = row["collectors"] * (row["policy_mb"] * 1e6 + row["states_kb"] * 1e3)
        seconds = [f"{row[name]:,.1f} s" for name in ("collect_s", "update_s")]
        sizes = [f"{row['env_steps_per_second']:,.0f}", f"{row['of_one']:.2f}", f"{(total + fixed) / 1e6:,.0f} MB"]
        table.append([f"{row['collectors']:,}", row["from"], *sizes, *seconds])
    return table


def off_policy_table(result: dict[str, Any]) -> list[list[str]]:
    """A table for SAC: how stale the collectors' policies are."""
    table = [
        ["collectors", "environment steps/s", "bytes a step", "learner's share of time", "updates behind", "at most"]
    ]
    for row in _of(result, "sac"):
        sizes = [f"{row['env_steps_per_second']:,.0f}", f"{row['bytes_per_env_step']:,.0f}"]
        behind = [f"{row[name]:.0f}" for name in ("staleness", "largest_staleness")]
        table.append([f"{row['collectors']}", *sizes, f"{row['update_share']:.0%}", *behind])
    return table


TABLES: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {"ppo": on_policy_table, "sac": off_policy_table}


def _of(result: dict[str, Any], learner: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["learner"] == learner]
