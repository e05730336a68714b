"""mtrl bench on_policy: steps per second of on-policy training, and the time of acting, physics and updates."""

from __future__ import annotations

from statistics import median
from typing import Any

from mtrl.bench.report import machine
from mtrl.core.config import check
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.monitoring.progress import counted

RECIPES = {"mt10": "quick", "mt50": "mt50"}
"""Suite -> the recipe that is measured."""
METHODS = {"none": [], "pcgrad": ["surgery=pcgrad"]}
"""The surgeries that are measured, with their options."""
EXECUTIONS = ("plain", "compiled")
"""The values of `agent.execution` that are measured; on a GPU only the first."""
ROLLOUTS = 6
"""Timed rollouts, after one to warm up."""


def measure(quick: bool = False, suites: tuple[str, ...] = ("mt10",), device: str = "cpu") -> dict[str, Any]:
    """Environment steps per second, and milliseconds of a rollout with its update, at the start of training.

    The methods take turns, one rollout at a time. Physics takes longer as the policy improves, since hands then touch
    objects; a run's own log shows how much. `of_joint` is the ratio of a method's time to that without surgery under
    the same `agent.execution`.

    Raises:
        UserError: a suite has no on-policy recipe.
    """
    check(set(suites) <= set(RECIPES), "--suites", f"among {', '.join(RECIPES)}", ", ".join(suites))
    rows = [row for suite in suites for row in _rows(suite, device, quick)]
    return {"bench": "on_policy", "device": device, "machine": machine(), "rows": rows}


def _rows(suite: str, device: str, quick: bool) -> list[dict[str, Any]]:
    trainers = {
        (name, execution): _trainer(suite, device, [*options, f"agent.execution={execution}"], quick)
        for execution in EXECUTIONS[: 1 if device != "cpu" else None]
        for name, options in METHODS.items()
    }
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in trainers}
    for _ in counted(range(1 + (1 if quick else ROLLOUTS)), "rounds"):
        for key, trainer in trainers.items():
            found[key].append(_rollout(trainer))
    for trainer in trainers.values():
        trainer.close()
    rows = {key: _row(suite, *key, found[key][1:], trainer) for key, trainer in trainers.items()}  # after a warm-up
    return [row | {"of_joint": row["ms"] / rows["none", key[1]]["ms"]} for key, row in rows.items()]


def _trainer(suite: str, device: str, options: list[str], quick: bool) -> Any:
    small = ["training.rollout_steps=4", "agent.minibatches=1"] if quick else []
    trainer: Any = Experiment(compose([f"recipe={RECIPES[suite]}", f"device={device}", *options, *small])).trainer
    return trainer.start()


def _rollout(trainer: Any) -> dict[str, float]:
    """Seconds of each part of one rollout and its update."""
    before = dict(trainer.seconds)
    for _ in range(trainer.config.rollout_steps):
        trainer.advance()
    return {part: seconds - before[part] for part, seconds in trainer.seconds.items()}


def _row(suite: str, surgery: str, execution: str, rollouts: list[dict[str, float]], trainer: Any) -> dict[str, Any]:
    steps = trainer.config.rollout_steps * trainer.tasks_per_step * trainer.config.envs_per_task
    total = median([sum(seconds.values()) for seconds in rollouts])
    parts = {f"{part}_ms": 1e3 * median([seconds[part] for seconds in rollouts]) for part in rollouts[0]}
    facts = {"suite": suite, "surgery": surgery, "execution": execution}
    return facts | {"env_steps_per_second": steps / total, "ms": 1e3 * total, **parts}
