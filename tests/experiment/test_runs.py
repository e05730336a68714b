"""How runs are grouped into experiments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mtrl.core.errors import UserError
from mtrl.experiment.runs import Scores, by_experiment


def runs(**seeds: int) -> Any:
    """Runs at paths, in which "__" separates folders, with these seeds."""
    return cast("Any", [SimpleNamespace(path=Path(path.replace("__", "/")), seed=seed) for path, seed in seeds.items()])


def test_experiments_of_one_name_are_told_apart_if_a_seed_would_occur_twice() -> None:
    found = by_experiment(runs(a__x__seed_1=1, a__x__seed_2=2, b__x__seed_1=1, b__y__seed_1=1))
    assert {name: [run.seed for run in group] for name, group in found.items()} == {
        "a/x": [1, 2],
        "b/x": [1],
        "y": [1],
    }
    assert {*by_experiment(runs(a__x__seed_1=1, b__x__seed_2=2))} == {"x"}


def test_runs_without_a_common_task_are_refused_for_that() -> None:
    results = [{"headline": "success", "tasks": {task: {"mean_success": 1.0}}} for task in ("reach", "push")]
    with pytest.raises(UserError, match="Found 'no common task'"):
        Scores.of(results)


def test_a_copy_of_a_run_is_not_another_seed() -> None:
    with pytest.raises(
        UserError, match=r"Runs of one experiment should be of different seeds. Found 'a/x/seed_1 and a/x/"
    ):
        by_experiment(runs(a__x__seed_1=1, a__x__seed_1_backup=1))
