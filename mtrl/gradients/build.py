"""From configurations to the optimiser of one network: the one place for what goes with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.types import TaskParameters
from mtrl.gradients.affinities import AFFINITIES
from mtrl.gradients.base import Context, Diagnostic, Weighting, primary_tasks
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS
from mtrl.gradients.weightings.equal import Equal


class Borrowed(Weighting):
    """The weights that another network's optimiser used last: the critic's, in the same update."""

    takes_some_tasks = True

    def __init__(self, source: MultiTaskOptimizer) -> None:
        super().__init__()
        self._source = [source]  # in a list: it saves its own state

    def weights(self, context: Context) -> Tensor:
        weights = self._source[0].last_weights
        return weights if context.task is None else weights.index_select(0, context.task)


def build_optimizer(
    network: TaskParameters,
    optimizer: torch.optim.Optimizer,
    weighting: Any,
    surgery: Any,
    *,
    tasks: Sequence[str] = (),
    part: str | None = None,
    critic: MultiTaskOptimizer | None = None,
    rows: int | None = None,
    diagnostics: Any = None,
    affinity: Any = None,
    **options: Any,
) -> MultiTaskOptimizer:
    """The optimiser that a weighting's and a surgery's configuration describe.

    Args:
        tasks: their names, for `primary=[...]`.
        part: "actor" or "critic" of an agent with both, for `surgery.apply_to`. An actor's losses have either sign.
        critic: an actor's critic, whose weights it may borrow.
        rows: the tasks of each update, where they are only some of the network's.
        diagnostics, affinity: the configurations of what watches the updates; None for nothing.
        options: those of `MultiTaskOptimizer`.

    Raises:
        UserError: the methods cannot be used together, or with this network.
    """
    applies = getattr(surgery, "apply_to", "both") in ("both", part) or part is None
    weights = _weighting(weighting, network.num_tasks, part, critic)
    watching = _diagnostics(diagnostics, affinity, network.num_tasks, part)
    if rows is not None:
        _check_rows(rows, weighting.kind, weights, watching)
    return MultiTaskOptimizer(
        network,
        optimizer,
        weights,
        SURGERIES.build(surgery, num_tasks=rows or network.num_tasks) if applies else None,
        per_member=getattr(surgery, "per_critic", False),
        primary=_primary(weighting, surgery, tasks, network.num_tasks),
        diagnostics=watching,
        **options,
    )


def _check_rows(rows: int, kind: str, weighting: Weighting, watching: Sequence[Diagnostic]) -> None:
    """Refuse what is about all tasks at once where an update sees only `rows` of them."""
    whole = "used where every update sees all tasks"
    if not weighting.takes_some_tasks:
        raise expected(f"Weighting {kind}", whole, f"{rows} of them")
    if watching:
        raise expected("Diagnostics and affinities", whole, f"{rows} of them")


def _weighting(config: Any, num_tasks: int, part: str | None, critic: MultiTaskOptimizer | None) -> Weighting:
    own = WEIGHTINGS.build(config, num_tasks=num_tasks)
    choice = getattr(config, "actor_weights", "own")
    if part != "actor" or choice == "own":
        return own
    if choice == "equal":
        return Equal()
    if critic is None:
        raise expected(f"Weighting {config.kind}", "used on losses that stay positive, or beside a critic", part)
    return Borrowed(critic)


def _diagnostics(diagnostics: Any, affinity: Any, num_tasks: int, part: str | None) -> list[Diagnostic]:
    chosen = [(registry, c) for registry, c in ((DIAGNOSTICS, diagnostics), (AFFINITIES, affinity)) if c is not None]
    built = [registry.build(config, num_tasks=num_tasks, part=part) for registry, config in chosen]
    return [diagnostic for diagnostic in built if diagnostic is not None]


def _primary(weighting: Any, surgery: Any, tasks: Sequence[str], num_tasks: int) -> Tensor:
    """The primary tasks (T,) bool that either configuration names; where both do, they must agree."""
    chosen = {g: list(getattr(c, "primary", [])) for g, c in (("weighting", weighting), ("surgery", surgery))}
    masks = [primary_tasks(f"{g}.primary", names, tasks, num_tasks) for g, names in chosen.items() if names]
    if getattr(surgery, "requires_primary", False):
        check(bool(masks), "surgery.primary", "the names or indexes of the tasks that count", chosen["surgery"])
    if len(masks) == 2:
        same = torch.equal(*masks)
        check(same, "surgery.primary", f"the tasks of weighting.primary {chosen['weighting']}", chosen["surgery"])
    primary = masks[0] if masks else torch.ones(num_tasks, dtype=torch.bool)
    limit, found = getattr(surgery, "primary_limit", num_tasks), int(primary.sum())
    check(found <= limit, "surgery.primary", f"at most {limit} task for {surgery.kind}", found)
    return primary
