"""Finds the tasks to train together from their affinities (Fifty et al. 2021, TAG).

There are at most k groups. A group's tasks are trained together. A task may be in several, and one of them serves it:
that group's network is used for the task. The task's score is the mean affinity that the serving group's other members
have with it, or 0 if it is alone. For up to 12 tasks, the groups with the largest sum of scores are found exactly: a
first solution, improved by exchanges, rules out most groups, and an integer programme chooses among the rest. For more
tasks, a local search from many starts finds good groups, without a proof that they are the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.core.config import check
from mtrl.core.errors import expected

EXACT_LIMIT = 12
"""The most tasks for which all 2^T − 1 groups are compared."""
_STARTS = 100
"""The number of random partitions from which the local search starts."""
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Grouping:
    groups: list[list[int]]
    """The members of each group."""
    serving: list[int]
    """The index of the group that serves each task, (T,)."""
    scores: list[float]
    """The mean affinity that the other members of its serving group have with each task, (T,)."""
    optimal: bool
    """Whether it is proven that no other groups are better."""

    @property
    def total(self) -> float:
        """The sum of the scores, which is maximised."""
        return float(sum(self.scores))


def best_groups(affinity: ArrayLike, groups: int) -> Grouping:
    """The best groups, at most `groups`, for an affinity (T, T) whose entry (i, j) says how much task i helps task j.

    Raises:
        UserError: the matrix is not square and finite, or `groups` is not between 1 and the number of tasks.
    """
    matrix = np.array(affinity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise expected("The affinity", "a matrix (T, T)", f"one of shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise expected("The affinity", "a matrix of finite numbers", "one with NaN or infinity")
    tasks = len(matrix)
    check(1 <= groups <= tasks, "--groups", f"in 1..{tasks}, the number of tasks", groups)
    np.fill_diagonal(matrix, 0.0)
    if tasks > EXACT_LIMIT:
        return _grouping(matrix, _searched(matrix, groups, np.random.default_rng(0)), optimal=False)
    members = (np.arange(1, 2**tasks)[:, None] >> np.arange(tasks) & 1).astype(bool)
    scores = _scores(matrix, members)
    first = _exchanged(scores, groups)
    chosen, optimal = _programme(scores, groups, first)
    return _grouping(matrix, members[chosen], optimal)


def _scores(matrix: FloatArray, members: BoolArray) -> FloatArray:
    """Groups (G, T) -> scores (G, T): each member's mean affinity from the others, 0 if alone; −inf for non-members."""
    others = np.maximum(members.sum(1, keepdims=True) - 1, 1)
    return np.where(members, members.astype(np.float64) @ matrix / others, -np.inf)


def _grouping(matrix: FloatArray, members: BoolArray, optimal: bool) -> Grouping:
    """The result with those groups of (G, T) that serve a task, ordered by the first task that each serves."""
    scores = _scores(matrix, members)
    serving = scores.argmax(0)
    used = list(dict.fromkeys(serving.tolist()))
    groups = [np.flatnonzero(members[group]).tolist() for group in used]
    return Grouping(groups, [used.index(g) for g in serving], scores.max(0).tolist(), optimal)


def _exchanged(scores: FloatArray, groups: int) -> NDArray[np.int64]:
    """A good choice of rows of (G, T). It starts with the group of all tasks and exchanges rows while that helps."""
    chosen = np.full(groups, len(scores) - 1)
    for _ in range(10 * groups):
        before = scores[chosen].max(0).sum()
        for place in range(groups):
            others = np.delete(chosen, place)
            rest = scores[others].max(0) if others.size else np.full(scores.shape[1], -np.inf)
            chosen[place] = np.maximum(scores, rest).sum(1).argmax()
        if scores[chosen].max(0).sum() <= before:
            break
    return chosen


def _programme(scores: FloatArray, groups: int, first: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """The rows of (G, T) with the largest sum of scores, and True. If the solver fails, `first` and False.

    Unknowns: which groups exist, and which tasks each serves.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    best = scores.max(0)
    # A task's deficit is its best possible score minus its score. In a solution better than the first one, no task's
    # deficit can be larger than the sum of all deficits in the first.
    slack = (best - scores[first].max(0)).sum() + 1e-12 * (1 + np.abs(best).max())
    rows, tasks = np.nonzero(scores >= best - slack)
    kept, row = np.unique(rows, return_inverse=True)
    pairs, count = len(rows), len(kept)
    size, index = pairs + count, np.arange(pairs)
    ones = np.ones(pairs)
    served = coo_array((ones, (tasks, index)), shape=(scores.shape[1], size))
    exists = coo_array((np.r_[ones, -ones], (np.r_[index, index], np.r_[index, pairs + row])), shape=(pairs, size))
    few = coo_array((np.ones(count), (np.zeros(count, int), pairs + np.arange(count))), shape=(1, size))
    unit = np.abs(scores[rows, tasks]).max() or 1.0
    result = milp(
        np.r_[-scores[rows, tasks] / unit, np.zeros(count)],
        integrality=np.r_[np.zeros(pairs), np.ones(count)],
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(*limited) for limited in ((served, 1, 1), (exists, -np.inf, 0), (few, 0, groups))
        ],
        options={"mip_rel_gap": 0.0},
    )
    if not result.success:
        return first, False
    return max(kept[result.x[pairs:] > 0.5], first, key=lambda choice: scores[choice].max(0).sum()), True


def _searched(matrix: FloatArray, groups: int, generator: np.random.Generator) -> BoolArray:
    """Groups (k, T), found from random partitions by changing one membership at a time while that helps."""
    tasks, best, record = len(matrix), np.ones((1, len(matrix)), bool), -np.inf
    for _ in range(_STARTS):
        members = generator.integers(groups, size=tasks) == np.arange(groups)[:, None]
        value, improved = _value(matrix, members), True
        while improved:
            improved = False
            for place in generator.permutation(members.size):
                members.flat[place] ^= True
                found = _value(matrix, members)
                if found > value + 1e-12 * abs(value):
                    value, improved = found, True
                else:
                    members.flat[place] ^= True
        if value > record:
            best, record = members, value
    return best


def _value(matrix: FloatArray, members: BoolArray) -> float:
    return float(_scores(matrix, members).max(0).sum())


def table(tasks: Sequence[str], grouping: Grouping) -> str:
    """A table: for each member of each group, the mean affinity of the others with it if that group serves it."""
    width = max(len("served task"), *map(len, tasks))
    lines = [f"{'group':>5}  {'served task':<{width}}  {'affinity':>10}"]
    for number, members in enumerate(grouping.groups):
        for task in members:
            served = grouping.serving[task] == number
            value = f"{grouping.scores[task]:>10.3g}" if served else f"{'(helps)':>10}"
            lines.append(f"{number + 1:>5}  {tasks[task]:<{width}}  {value}")
    found = "no better groups exist" if grouping.optimal else "the best found, without a proof"
    return "\n".join([*lines, f"{'sum':>5}  {'':<{width}}  {grouping.total:>10.3g}  ({found})"])
