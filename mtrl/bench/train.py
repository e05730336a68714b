"""mtrl bench train: environments and updates together, in turn or in parallel, compared with each of them alone."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from mtrl.agents import AGENTS
from mtrl.bench.report import machine
from mtrl.core.config import check
from mtrl.core.cores import available_cores
from mtrl.core.memory import keep_freed_memory, peak_bytes
from mtrl.envs import SUITES
from mtrl.gradients import Methods
from mtrl.monitoring.progress import counted
from mtrl.networks import NETWORKS
from mtrl.training import TRAININGS


@dataclass(frozen=True)
class Size:
    """The sizes of a learner, the copies of each task, and the update-to-data ratio."""

    width: int
    batch_size: int
    envs_per_task: int
    update_to_data: float
    steps: int
    """Vector steps in a timed block, which takes about a quarter of a second on two cores."""
    threads: int = 0
    """The learner's threads, while environments step on all cores; 0 means one for each core."""

    @property
    def updates(self) -> int:
        """The number of updates after each vector step."""
        return round(self.envs_per_task * self.update_to_data)


SIZES = {"quick": Size(128, 32, 2, 0.5, 15, threads=1), "standard": Size(400, 128, 1, 1.0, 2)}
"""`quick` has the width and batch of `recipe=sac_mt10`, whose small matrix products are faster on one core, and half
of its copies of each task. `standard` has the usual sizes for MT10 and MT50."""
GPU = Size(400, 128, 16, 1.0, 20)
"""The size for a learner on a GPU, with sixteen copies of each task."""
ROUNDS = 32
Call = Callable[[], Any]


def measure(
    quick: bool = False, suites: tuple[str, ...] = ("mt10",), device: str = "cpu", compiled: bool = False
) -> dict[str, Any]:
    """Milliseconds of one step of all environments with its updates, for multi-head SAC with PCGrad.

    `environments` and `updates` are measured alone, each on all cores; `updates_fewer_threads` are updates with
    `Size.threads`. `in_turn` alternates between environments and updates. `side_by_side`, the default of runs, overlaps
    them. In both, environments use all cores, and the learner `Size.threads`. In `split`, half of the cores step the
    environments while the others learn. `of_sum` and `of_larger` are ratios to the sum and to the larger of the times
    of `environments` and `updates`. `waiting` is the share of time in which the learner waited for environments that
    step beside it. `peak_mb` is the largest resident memory of the whole process so far, to which everything before
    contributes: the other orders, and earlier sizes and suites. `summary` names the fastest order, and says whether the
    default takes at most 1.05 times the sum and 1.15 times the larger.

    Updates run as at the beginning of a run (eagerly, or captured on a GPU), or `compiled`, as in long runs.

    Raises:
        UserError: a suite is not mt10, mt25 or mt50.
    """
    known = ("mt10", "mt25", "mt50")
    check(set(suites) <= set(known), "--suites", f"among {', '.join(known)}", ", ".join(suites))
    keep_freed_memory()
    sizes = SIZES if device == "cpu" else {"gpu": GPU}
    execution = "compiled" if compiled else "plain" if device == "cpu" else "captured"
    rows, summary = [], []
    for suite, name in itertools.product(suites, sizes):
        rounds, steps = (2, 3) if quick else (ROUNDS, sizes[name].steps)
        found = _rows(suite, sizes[name], rounds, steps, device, execution)
        rows += [{"suite": suite, "size": name} | row for row in found]
        summary.append({"suite": suite, "size": name} | _summary(found))
    facts = {
        "network": "multi_head",
        "surgery": "pcgrad",
        "device": device,
        "execution": execution,
        "machine": machine(),
    }
    return {"bench": "train", **facts, "summary": summary, "rows": rows}


def _trainer(suite: str, size: Size, device: str, execution: str, threads: int, deterministic: bool) -> Any:
    torch.manual_seed(0)
    tasks = SUITES.build(SUITES.config_class(suite)())
    tasks.make_envs = functools.partial(tasks.batched_envs, threads=threads)
    runs: dict[str, Any] = {"execution": execution, "updates_per_launch": size.updates}
    agent = AGENTS.build(
        AGENTS.config_class("sac")(batch_size=size.batch_size, **runs),
        network=NETWORKS.config_class("multi_head")(width=size.width),
        methods=Methods.of("pcgrad"),
        spec=tasks.spec,
        device=device,
    )
    ratio = {"envs_per_task": size.envs_per_task, "update_to_data": size.update_to_data}
    config = TRAININGS.config_class("off_policy")(
        learning_starts=100 * size.envs_per_task, deterministic=deterministic, **ratio
    )
    trainer = TRAININGS.build(config, agent=agent, suite=tasks, seed=0, steps=20_000).start()
    while trainer.step < config.learning_starts + 5 * size.envs_per_task:
        trainer.advance()
    return trainer


def _threads(size: Size) -> dict[str, tuple[int, int]]:
    """What is measured -> (threads of the learner, threads of the environments); 0 for a part that does not run."""
    cores = available_cores()
    learner, half = size.threads or cores, max(1, cores // 2)
    threads = {"environments": (0, cores), "updates": (cores, 0)}
    threads |= {"updates_fewer_threads": (learner, 0)} if learner != cores else {}
    threads |= {"in_turn": (learner, cores), "side_by_side": (learner, cores)}
    return threads | ({"split": (cores - half, half)} if cores > 1 else {})


def _rows(suite: str, size: Size, rounds: int, steps: int, device: str, execution: str) -> list[dict[str, Any]]:
    threads = _threads(size)
    orders = [name for name, parts in threads.items() if all(parts)]
    trainers = {name: _trainer(suite, size, device, execution, threads[name][1], name == "in_turn") for name in orders}
    alone = trainers["in_turn"]
    updates = _updates(alone, size.updates, device)
    calls: dict[str, Call] = {name: updates for name, parts in threads.items() if not parts[1]}
    calls |= {"environments": _environments(alone), **{name: t.advance for name, t in trainers.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in threads}
    waits: dict[str, list[float]] = {name: [] for name in threads}
    for _ in counted(range(rounds), "rounds"):
        for name, (learner, _) in threads.items():
            torch.set_num_threads(learner or available_cores())
            waited, now = _block(calls[name], steps, trainers.get(name), device)
            seconds[name].append(now)
            waits[name].append(waited if name != "in_turn" else 0.0)  # in turn, this time is the stepping itself
    torch.set_num_threads(available_cores())
    for trainer in trainers.values():
        trainer.close()
    facts = {"env_steps": alone.envs.num_tasks * size.envs_per_task, "updates": size.updates}
    medians = {name: median(values) for name, values in seconds.items()}
    return [_row(name, threads[name], medians, median(waits[name]) / medians[name], facts) for name in threads]


def _block(call: Call, steps: int, trainer: Any, device: str) -> tuple[float, float]:
    """Time a block of `steps` calls. Returns (seconds waited for the environments, seconds) per call.

    The blocks of all orders take turns, so that the machine's noise affects all of them equally.
    """
    waited, begin = _waited(trainer), time.perf_counter()
    for _ in range(steps):
        call()
    _finish(device)
    return (_waited(trainer) - waited) / steps, (time.perf_counter() - begin) / steps


def _row(
    name: str, threads: tuple[int, int], medians: dict[str, float], waiting: float, facts: dict[str, int]
) -> dict[str, Any]:
    now, alone = medians[name], (medians["environments"], medians["updates"])
    row: dict[str, Any] = {"what": name, "learner_threads": threads[0], "environment_threads": threads[1]}
    row |= {"ms": 1e3 * now, "of_sum": now / sum(alone), "of_larger": now / max(alone), "waiting": waiting}
    row |= {"env_steps_per_second": 0.0 if name.startswith("updates") else facts["env_steps"] / now}
    row |= {"updates_per_second": 0.0 if name == "environments" else facts["updates"] / now}
    return row | {"peak_mb": round(peak_bytes() / 1e6)}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {row["what"]: row for row in rows}
    orders = [name for name in ("in_turn", "side_by_side", "split") if name in found]
    default = found["side_by_side"]
    return {
        "fastest": min(orders, key=lambda name: found[name]["ms"]),
        "of_sum": {name: round(found[name]["of_sum"], 3) for name in orders},
        "of_larger": {name: round(found[name]["of_larger"], 3) for name in orders},
        "within_1.05_of_sum": bool(default["of_sum"] <= 1.05),
        "within_1.15_of_larger": bool(default["of_larger"] <= 1.15),
    }


def _waited(trainer: Any) -> float:
    return trainer.seconds["step"] if trainer is not None else 0.0


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _environments(trainer: Any) -> Call:
    envs = trainer.envs
    shape = (64, envs.num_tasks, envs.envs_per_task, trainer.suite.spec.action_size)
    actions = itertools.cycle(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    return lambda: envs.step(next(actions))


def _updates(trainer: Any, count: int, device: str) -> Call:
    def call() -> None:
        trainer.agent.learn(trainer._draw, count)
        _finish(device)

    return call
