"""mtrl bench train: environments and updates end to end, in turn and side by side, against each of them alone."""

from __future__ import annotations

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
from mtrl.gradients import SURGERIES, WEIGHTINGS
from mtrl.networks import NETWORKS
from mtrl.training import TRAININGS


@dataclass(frozen=True)
class Size:
    """One size of learner, and how many copies of each task feed how many updates."""

    width: int
    batch_size: int
    envs_per_task: int
    updates_per_step: float


SIZES = {"quick": Size(128, 32, 2, 0.5), "standard": Size(400, 128, 1, 1.0)}
"""Those of `recipe=quick`, and the usual ones of MT10 and MT50."""
Call = Callable[[], Any]


def measure(quick: bool = False, suites: tuple[str, ...] = ("mt10",), device: str = "cpu") -> dict[str, Any]:
    """Milliseconds of one step of all environments and its updates, multi-head SAC with PCGrad.

    `environments` and `updates` are each alone, on all cores; `in_turn` alternates, `side_by_side` is the default.
    `of_sum` and `of_larger` compare with the sum of the two and the larger of them; `waiting` is the share of the
    time in which the learner waited for the environments. Rows with `threads` other than all cores say what PyTorch
    was given.

    Raises:
        UserError: a suite that is not one of Meta-World's.
    """
    known = ("mt10", "mt25", "mt50")
    check(set(suites) <= set(known), "--suites", f"among {', '.join(known)}", ", ".join(suites))
    keep_freed_memory()
    rows = []
    for suite, name in itertools.product(suites, SIZES):
        rows += _rows(suite, name, 2 if quick else 12, 3 if quick else 20, device)
    return {"bench": "train", "network": "multi_head", "surgery": "pcgrad", "machine": machine(), "rows": rows}


def _trainer(suite: str, size: Size, deterministic: bool, device: str) -> Any:
    torch.manual_seed(0)
    tasks = SUITES.build(SUITES.config_class(suite)())
    agent = AGENTS.build(
        AGENTS.config_class("sac")(batch_size=size.batch_size),
        network=NETWORKS.config_class("multi_head")(width=size.width),
        weighting=WEIGHTINGS.config_class("equal")(),
        surgery=SURGERIES.config_class("pcgrad")(),
        num_tasks=len(tasks.tasks),
        device=device,
        **tasks.sizes,
    )
    ratio = {"envs_per_task": size.envs_per_task, "updates_per_step": size.updates_per_step}
    config = TRAININGS.config_class("off_policy")(warmup=200, deterministic=deterministic, **ratio)
    trainer = TRAININGS.build(config, agent=agent, suite=tasks, seed=0, steps=20_000)
    while trainer.step < config.warmup + 10 * size.envs_per_task:
        trainer.advance()
    return trainer


def _rows(suite: str, name: str, rounds: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Blocks of `steps` vector steps of each, in turn, so that a noisy machine is noisy for all alike."""
    size = SIZES[name]
    trainers = {"in_turn": _trainer(suite, size, True, device), "side_by_side": _trainer(suite, size, False, device)}
    updates = size.envs_per_task * size.updates_per_step
    calls: dict[tuple[str, int], Call] = {("environments", 0): _environments(trainers["in_turn"])}
    for threads in sorted({1, available_cores()}):
        calls["updates", threads] = _updates(trainers["in_turn"], updates)
        calls |= {(order, threads): trainer.advance for order, trainer in trainers.items()}
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    waits: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for (what, threads), call in calls.items():
            torch.set_num_threads(threads or available_cores())
            waited, begin = _waited(trainers.get(what)), time.perf_counter()
            for _ in range(steps):
                call()
            seconds[what, threads].append((time.perf_counter() - begin) / steps)
            waits[what, threads].append((_waited(trainers.get(what)) - waited) / steps)
    for trainer in trainers.values():
        trainer.close()
    alone = [median(seconds["environments", 0])]
    alone.append(min(median(values) for (what, _), values in seconds.items() if what == "updates"))
    facts = {"suite": suite, "size": name}
    rows: list[dict[str, Any]] = [facts | _row(key, values, waits[key], alone) for key, values in seconds.items()]
    env_steps, peak = trainers["in_turn"].envs.num_tasks * size.envs_per_task, round(peak_bytes() / 1e6)
    rates = (
        {"env_steps_per_second": env_steps / r["ms"] * 1e3, "updates_per_second": updates / r["ms"] * 1e3} for r in rows
    )
    return [row | rate | {"peak_mb": peak} for row, rate in zip(rows, rates, strict=True)]


def _row(key: tuple[str, int], seconds: list[float], waits: list[float], alone: list[float]) -> dict[str, Any]:
    what, threads = key
    now = median(seconds)
    row: dict[str, Any] = {"what": what, "threads": threads or available_cores(), "ms": 1e3 * now}
    row |= {"of_sum": now / sum(alone), "of_larger": now / max(alone)}
    return row | {"waiting": median(waits) / now if what == "side_by_side" else 0.0}


def _waited(trainer: Any) -> float:
    return trainer.seconds["step"] if trainer is not None else 0.0


def _environments(trainer: Any) -> Call:
    envs = trainer.envs
    shape = (64, envs.num_tasks, envs.envs_per_task, trainer.action_size)
    actions = itertools.cycle(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    return lambda: envs.step(next(actions))


def _updates(trainer: Any, per_step: float) -> Call:
    """The updates of one vector step, as a whole number of them."""
    agent, replay = trainer.agent, trainer.replay
    check(per_step == int(per_step), "updates of a vector step", "a whole number", per_step)

    def call() -> None:
        for _ in range(int(per_step)):
            agent.update(replay.sample(agent.config.batch_size, agent.generator))

    return call
