"""The configurations that `mtrl group` writes for a run's groups of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrl import cli
from mtrl.monitoring.files import write_json
from tests.support.tiny_runs import TINY, run_folder

BLOCKS = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def grouped(methods: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    """Train with these methods, and group the tasks as `BLOCKS` says. Returns exit code and written configurations."""
    watching = ["diagnostics=transference", "diagnostics.transference.every=1"]
    assert cli.main(["train", *TINY, *watching, *methods]) == 0
    saved = json.loads((run_folder() / "affinity.json").read_text())
    write_json(run_folder() / "affinity.json", saved | {"affinity": {"critic": BLOCKS}})
    capsys.readouterr()
    done = cli.main(["group", str(run_folder()), "--groups", "2"])
    return done, [yaml.safe_load(path.read_text()) for path in sorted((run_folder() / "groups").glob("*.yaml"))]


@pytest.mark.parametrize("primary", ["0,turn-270", "0"])
def test_primary_tasks_stay_with_their_group(primary: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As names, since indexes differ from group to group. A group without a primary task is refused."""
    done, plans = grouped(["weighting=auto_lambda", f"weighting.primary=[{primary}]"], capsys)
    if primary == "0":
        assert done == 2 and not plans
        assert "weighting.primary" in capsys.readouterr().err
    else:
        assert done == 0 and [plan["weighting"]["primary"] for plan in plans] == [["turn-0"], ["turn-270"]]
        assert all(set(plan["weighting"]["primary"]) < set(plan["benchmark"]["tasks"]) for plan in plans)


@pytest.mark.parametrize("candidates", ["all,2+3", "0+2,1+0"])
def test_combinations_of_tasks_keep_their_tasks(
    candidates: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the indexes of the group. Combinations across groups are left out; a group without any is refused."""
    done, plans = grouped(["surgery=transference", f"surgery.candidates=[{candidates}]"], capsys)
    if candidates == "all,2+3":
        assert done == 0 and [plan["surgery"]["candidates"] for plan in plans] == [["all"], ["all", "0+1"]]
    else:
        assert done == 2 and "surgery.candidates" in capsys.readouterr().err
