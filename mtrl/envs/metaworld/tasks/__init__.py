"""The registry of batched Meta-World tasks; `base` explains how one is written.

Rewards, observations and constants are those of Meta-World (MIT, see NOTICE), rewritten for arrays.
"""

from mtrl.envs.metaworld.tasks import (
    boxes,
    buttons,
    coffee,
    doors,
    drawers,
    faucets,
    handles,
    lever,
    nuts,
    pegs,
    pick_place,
    placing,
    plates,
    push,
    reach,
    sticks,
    sweep,
    tools,
    windows,
)
from mtrl.envs.metaworld.tasks.base import TaskSpec

_FAMILIES = (
    boxes,
    buttons,
    coffee,
    doors,
    drawers,
    faucets,
    handles,
    lever,
    nuts,
    pegs,
    pick_place,
    placing,
    plates,
    push,
    reach,
    sticks,
    sweep,
    tools,
    windows,
)

TASKS: dict[str, TaskSpec] = {spec.name: spec for family in _FAMILIES for spec in family.SPECS}


def spec(name: str) -> TaskSpec:
    """The specification of a task such as ``"reach-v3"``; ValueError for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"Parameter `name` should be one of {', '.join(sorted(TASKS))}. Found `name = {name!r}`.")
    return TASKS[name]


__all__ = ["TASKS", "TaskSpec", "spec"]
