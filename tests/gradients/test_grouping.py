"""The groups found are the best there are, by looking at all of them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.gradients import grouping
from mtrl.gradients.grouping import best_groups


def brute_force(affinity: np.ndarray, groups: int) -> float:
    """The largest sum of scores of any choice of groups in which every task is a member."""
    tasks = range(len(affinity))
    subsets = [s for n in tasks for s in itertools.combinations(tasks, n + 1)]

    def score(task: int, group: tuple[int, ...]) -> float:
        others = [affinity[i, task] for i in group if i != task]
        return -np.inf if task not in group else float(np.mean(others)) if others else 0.0

    table = np.array([[score(task, group) for task in tasks] for group in subsets])
    choices = itertools.combinations_with_replacement(range(len(subsets)), groups)
    return max(table[list(choice)].max(0).sum() for choice in choices)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
def test_no_choice_of_groups_is_better(groups: int, scale: float, shift: float) -> None:
    affinity = scale * (np.random.default_rng(groups).normal(size=(5, 5)) + shift)
    found = best_groups(affinity, groups)
    assert found.optimal and len(found.groups) <= groups
    assert found.total == pytest.approx(brute_force(affinity, groups), rel=1e-9, abs=1e-12 * scale)


def test_without_a_solution_of_the_programme_nothing_is_called_optimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: SimpleNamespace(success=False, x=None))
    affinity = np.random.default_rng(0).normal(size=(5, 5))
    found = best_groups(affinity, 2)
    assert not found.optimal and sorted({task for group in found.groups for task in group}) == list(range(5))


@pytest.mark.parametrize("tasks", [4, 14])
def test_scores_are_those_of_the_groups(tasks: int) -> None:
    affinity = np.random.default_rng(0).normal(size=(tasks, tasks))
    found = best_groups(affinity, 3)
    for task, (group, score) in enumerate(zip(found.serving, found.scores, strict=True)):
        others = [i for i in found.groups[group] if i != task]
        assert task in found.groups[group]
        assert score == pytest.approx(np.mean([affinity[i, task] for i in others]) if others else 0.0)


@pytest.mark.parametrize("tasks", [9, 40])
def test_blocks_are_found(tasks: int) -> None:
    """Tasks help those of the same third and hurt the others. This holds beyond the exact search, too."""
    third = np.arange(tasks) % 3
    affinity = np.where(third[:, None] == third, 1.0, -1.0) + 0.01 * np.random.default_rng(0).normal(
        size=(tasks, tasks)
    )
    found = best_groups(affinity, 3)
    assert sorted(found.groups) == [np.flatnonzero(third == k).tolist() for k in range(3)]
    assert found.optimal == (tasks <= grouping.EXACT_LIMIT)


def test_a_task_may_help_without_being_served() -> None:
    """Task 2 helps both others, which hurt each other and task 2."""
    affinity = np.array([[0.0, -1.0, -1.0], [-1.0, 0.0, -1.0], [1.0, 1.0, 0.0]])
    found = best_groups(affinity, 3)
    assert sorted(found.groups) == [[0, 2], [1, 2], [2]] and found.scores == [1.0, 1.0, 0.0]
    table = grouping.table(["a", "b", "c"], found)
    assert table.count("(helps)") == 2 and "no better groups exist" in table


def test_the_search_comes_near_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for many tasks, on as few as the exact one can do."""
    affinities = [np.random.default_rng(seed).normal(size=(8, 8)) for seed in range(3)]
    best = [best_groups(affinity, 2) for affinity in affinities]
    monkeypatch.setattr(grouping, "EXACT_LIMIT", 7)
    for affinity, exact in zip(affinities, best, strict=True):
        found = best_groups(affinity, 2)
        assert exact.optimal and not found.optimal and len(found.groups) <= 2
        assert 0.9 * exact.total <= found.total <= exact.total + 1e-9


def test_bad_input_is_refused() -> None:
    for wrong in (0, 4):
        with pytest.raises(UserError, match=r"--groups.*1\.\.3"):
            best_groups(np.eye(3), wrong)
    for matrix in (np.ones((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(UserError, match="The affinity should be a matrix"):
            best_groups(matrix, 1)
    assert best_groups(np.ones((1, 1)), 1).groups == [[0]]
