"""Folders of runs that were never trained: what a run leaves, with values of one's choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PROTOCOL = {"protocol": "goals", "benchmark": "mt10", "reward_version": "v2", "horizon": 500, "num_goals": 50}

HOSTILE = '"><script>window.hit = 1</script><img src=x onerror="window.hit = 1">'
"""Used as a name; an experiment's name has another character for the slash."""


def made_run(
    experiment: Path,
    seed: int,
    success: Mapping[str, float] | None,
    *,
    surgery: str = "none",
    config: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """A run whose final success of each task is given, or which has not finished; `result` has more of its facts."""
    path = experiment / f"seed_{seed}"
    (path / "videos").mkdir(parents=True)
    parts = {"benchmark": {"kind": "mt10"}, "network": {"kind": "mint", "width": 64}, "surgery": {"kind": surgery}}
    (path / "config.yaml").write_text(yaml.safe_dump({**parts, "seed": seed, "steps": 3000, **(config or {})}))
    tasks = list(success or {"reach": 0.0, "push": 0.0})
    rows = [row(step, {task: (success or {}).get(task, 0.0) for task in tasks}) for step in (1000, 2000, 3000)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    git = {"commit": "0123456789abcdef", "dirty": False}
    origin = {"command": ["mtrl", "train", "benchmark=mt10", f"seed={seed}"], "git": git, "python": "3.11.7"}
    (path / "provenance.json").write_text(json.dumps({**origin, **(provenance or {})}))
    if success is not None:
        facts = {"steps_per_task": 3000, "updates": 300, "training_seconds": {"update": 90.0}, "headline": "success"}
        mean = sum(success.values()) / len(success)
        reached = {task: {"mean_success": share, "success": [True]} for task, share in success.items()}
        facts |= {"seed": seed, "episodes": 50, **PROTOCOL, "mean_success": mean, "tasks": reached}
        (path / "result.json").write_text(json.dumps({**facts, **(result or {})}))
    return path


def row(step: int, success: Mapping[str, float]) -> dict[str, Any]:
    """What is logged after so many steps: success rises, the tasks' gradients conflict, and weights move."""
    size = range(len(success))
    names = list(success)
    return {
        "step": step,
        "throughput/seconds": step / 40,
        **{f"evaluation/success/{task}": share * step / 3000 for task, share in success.items()},
        "critic/cosine": [[1.0 if a == b else -0.25 for b in size] for a in size],
        "critic/conflicts": [[float(a != b) for b in size] for a in size],
        **{f"critic/weight/{task}": 1.0 + k * step / 3000 for k, task in enumerate(names)},
    }
