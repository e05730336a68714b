"""mtrl bench on_policy: steps a second of on-policy training, and what acting, physics and updates take of it."""

from __future__ import annotations

from statistics import median
from typing import Any

from mtrl.bench.report import machine
from mtrl.core.config import check
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.monitoring.progress import counted

RECIPES = {"mt10": "quick", "mt50": "mt50"}
"""Whose sizes are measured."""
METHODS = {"none": [], "pcgrad": ["surgery=pcgrad"]}
"""Surgeries of actor and critic that are measured, and their options."""
EXECUTIONS = ("plain", "compiled")
"""Values of `agent.execution` that are measured; the first alone on a GPU."""
ROLLOUTS = 6


def measure(quick: bool = False, suites: tuple[str, ...] = ("mt10",), device: str = "cpu") -> dict[str, Any]:
    """Environment steps a second with the first policies of a run; methods take turns, one rollout each.

    Physics becomes dearer as the policy gets better, since hands and objects touch: a run's own log tells by how much.
    `of_joint` compares a method's milliseconds with those of no surgery under the same `agent.execution`.

    Raises:
        UserError: a suite that has no on-policy recipe.
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
