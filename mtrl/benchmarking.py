"""Speed on this machine, as rows that anyone can measure again: mtrl bench update | envs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch

from mtrl.agents import AGENTS
from mtrl.core.types import Transitions
from mtrl.data.replay import ReplayBuffer
from mtrl.gradients import SURGERIES, WEIGHTINGS
from mtrl.monitoring import provenance
from mtrl.networks import NETWORKS
from mtrl.plain_sac import PlainSAC

OBSERVATION, ACTION, WIDTH, DEPTH, BATCH = 39, 4, 400, 3, 128
"""Meta-World's sizes and the usual networks of MT10 and MT50."""
SUITES = {"mt10": 10, "mt50": 50}


def interleaved(calls: dict[str, Callable[[], Any]], repetitions: int, warmup: int = 5) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn (A B C A B C ...), so that a noisy machine is noisy for all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(warmup + repetitions):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repetition >= warmup:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": provenance.cpu_model(),
        "system": platform.platform(),
    }


def _replay(num_tasks: int) -> ReplayBuffer:
    generator = torch.Generator().manual_seed(0)
    replay = ReplayBuffer(num_tasks, 2000, OBSERVATION, ACTION)
    shape = (num_tasks, 2000)
    replay.add(
        Transitions(
            torch.randn(*shape, OBSERVATION, generator=generator),
            torch.rand(*shape, ACTION, generator=generator) * 2 - 1,
            torch.rand(shape, generator=generator),
            torch.randn(*shape, OBSERVATION, generator=generator),
            torch.zeros(shape),
        )
    )
    return replay


def _update(num_tasks: int, surgery: str) -> Callable[[], Any]:
    """One full update: sampling, critics, actor, temperatures, targets."""
    torch.manual_seed(0)
    agent = AGENTS.build(
        AGENTS.config_class("sac")(batch_size=BATCH),
        network=NETWORKS.config_class("multi_head")(width=WIDTH, depth=DEPTH),
        weighting=WEIGHTINGS.config_class("equal")(),
        surgery=SURGERIES.config_class(surgery)(),
        num_tasks=num_tasks,
        observation_size=OBSERVATION,
        action_size=ACTION,
    )
    replay = _replay(num_tasks)
    return lambda: agent.update(replay.sample(BATCH, agent.generator))


def _plain(num_tasks: int) -> Callable[[], Any]:
    agent, replay = PlainSAC(num_tasks, OBSERVATION, ACTION, WIDTH, DEPTH), _replay(num_tasks)
    return lambda: agent.update(replay.sample(BATCH))


def update(quick: bool = False, suites: Sequence[str] = tuple(SUITES)) -> dict[str, Any]:
    """Milliseconds of a full SAC update with multi-head networks, and its ratio to the joint one.

    `plain` is the same update in ordinary layers on (T·B) rows, written apart from the toolkit as its check;
    `joint` the toolkit's update without surgery.
    """
    rows = []
    for suite in suites:
        tasks = SUITES[suite]
        calls = {"plain": _plain(tasks), **{s: _update(tasks, s) for s in ("none", "pcgrad")}}
        seconds = interleaved(calls, 5 if quick else 50)
        base = min(median(seconds["plain"]), median(seconds["none"]))
        for name, values in seconds.items():
            low, _, high = quantiles(values, n=4)
            row = {"suite": suite, "update": "joint" if name == "none" else name}
            row |= {"ms": 1e3 * median(values), "quartiles": [1e3 * low, 1e3 * high]}
            rows.append(row | {"ratio": median(values) / base, "repetitions": len(values)})
    sizes = {"network": "multi_head", "width": WIDTH, "depth": DEPTH, "batch_per_task": BATCH}
    return {"bench": "update", **sizes, "machine": machine(), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The rows as aligned text."""
    rows = [{k: _cell(v) for k, v in row.items()} for row in result["rows"]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    widths = [max(len(c), *(len(row.get(c, "")) for row in rows)) for c in columns]
    lines = [columns, *[[row.get(c, "") for c in columns] for row in rows]]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return " to ".join(map(_cell, value)) if isinstance(value, list) else str(value)
