"""The registry of batched Meta-World tasks. `base` explains how to write one.

Rewards, observations and constants are those of Meta-World (MIT, see NOTICE).
"""

from importlib import import_module

from mtrl.envs.metaworld.tasks.base import TaskSpec

_FAMILIES = (
    *("boxes", "buttons", "coffee", "doors", "drawers", "faucets", "handles", "lever", "nuts", "pegs"),
    *("pick_place", "placing", "plates", "push", "reach", "sticks", "sweep", "tools", "windows"),
)

TASKS: dict[str, TaskSpec] = {
    spec.name: spec for family in _FAMILIES for spec in import_module(f"{__name__}.{family}").SPECS
}

__all__ = ["TASKS", "TaskSpec"]
