"""The goals of goal-conditioned pushing: the puck's start and its place (Mint paper, Sec. 6.3, App. B).

A goal is four numbers in metres on the table: the puck's start (x, y), then the place (x, y) to which it should be
pushed.
"""

from __future__ import annotations

from typing import Any

import metaworld
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.core.errors import expected

TASK = "push-v3"
"""The Meta-World task whose scene and physics are used."""
PUCK_LOW, PUCK_HIGH = (-0.2, 0.6), (0.2, 0.7)
PLACE_LOW, PLACE_HIGH = (-0.2, 0.85), (0.2, 0.95)
LOW = np.array([*PUCK_LOW, *PLACE_LOW])
HIGH = np.array([*PUCK_HIGH, *PLACE_HIGH])
GOAL_SIZE = len(LOW)
RANGES = (
    f"x in {PUCK_LOW[0]}..{PUCK_HIGH[0]}, y of the puck in {PUCK_LOW[1]}..{PUCK_HIGH[1]}, y of its place in "
    f"{PLACE_LOW[1]}..{PLACE_HIGH[1]} (metres)"
)
_TABLE_HEIGHT = 0.02

Goals = NDArray[np.float64]
"""(n, 4)"""


def draw_goals(seed: int, count: int, *, held_out: bool = False) -> Goals:
    """Draw ``count`` goals (count, 4), uniformly in their ranges. Held-out goals come from a stream of their own."""
    streams = np.random.SeedSequence(seed).spawn(2)
    drawn = np.random.default_rng(streams[int(held_out)]).uniform(LOW, HIGH, (count, GOAL_SIZE))
    return check_goals(drawn)


def check_goals(goals: Any) -> Goals:
    """Check goals, and return them as float64 (n, 4), clipped to their ranges.

    Raises:
        UserError: they are not numbers, have another shape, or are out of their ranges by more than a rounding error.
    """
    what = "Goals (n, 4)"
    try:
        found = np.asarray(goals, np.float64)
    except (TypeError, ValueError) as error:
        raise expected(what, f"numbers, {RANGES}", goals) from error
    if found.ndim != 2 or found.shape[1] != GOAL_SIZE:
        raise expected(what, f"four numbers each, {RANGES}", f"shape {found.shape}")
    # Floats next to the edges count as inside: 0.7 stored in single precision is a little more than 0.7.
    inside = ((found >= LOW - 1e-6) & (found <= HIGH + 1e-6)).all(1)
    if not inside.all():
        raise expected(what, f"inside their ranges, {RANGES}", found[~inside][0].tolist())
    return np.clip(found, LOW, HIGH)


def normalised(goals: Goals) -> NDArray[np.float32]:
    """Goals (n, 4), scaled to [-1, 1], as networks see them."""
    return ((2 * goals - (HIGH + LOW)) / (HIGH - LOW)).astype(np.float32)


def nearest(goals: Goals, table: Goals) -> NDArray[np.int64]:
    """(n,): for each goal, the index of the nearest one in the table, by the distance of normalised goals."""
    difference = normalised(goals)[:, None] - normalised(table)[None]
    return np.square(difference).sum(-1).argmin(1)


def as_tasks(goals: Goals) -> list[Task]:
    """Goals (n, 4) as Meta-World's own tasks."""
    found = []
    for puck_x, puck_y, x, y in goals:
        vector = np.array([puck_x, puck_y, _TABLE_HEIGHT, x, y, _TABLE_HEIGHT])
        data = {"rand_vec": vector, "env_cls": ALL_V3_ENVIRONMENTS[TASK], "partially_observable": False}
        found.append(metaworld._encode_task(TASK, data))
    return found
