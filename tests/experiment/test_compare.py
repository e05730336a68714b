"""Methods against each other: what is compared, what is refused, and what is named as missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rliable import metrics

from mtrl.cli import main
from tests.support.made_runs import PROTOCOL, made_run


@pytest.fixture
def two(elsewhere: Path) -> Path:
    """Experiments `new` (seeds 1 and 2) and `old` (seeds 1 and 3)."""
    made_run(Path("new"), 1, {"reach": 1.0, "push": 0.2})
    made_run(Path("new"), 2, {"reach": 0.5, "push": 0.2})
    made_run(Path("old"), 1, {"reach": 0.5, "push": 0.2})
    made_run(Path("old"), 3, {"reach": 0.0, "push": 0.4})
    return elsewhere


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["compare", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_comparison_is_that_of_rliable_and_of_the_hand(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = compared(capsys, "new", "--against", "old")["comparisons"]
    new, old = np.array([[1.0, 0.2], [0.5, 0.2]]), np.array([[0.5, 0.2], [0.0, 0.4]])
    assert found["tasks"]["reach"]["difference"]["point"] == pytest.approx(0.75 - 0.25)
    assert found["tasks"]["reach"]["probability_of_improvement"]["point"] == pytest.approx(3.5 / 4)
    assert found["tasks"]["push"]["here"] == pytest.approx(0.2)
    assert found["tasks"]["push"]["against"] == pytest.approx(0.3)
    middle, chance = found["interquartile_mean"], found["mean"]["probability_of_improvement"]
    assert middle["here"] == pytest.approx(metrics.aggregate_iqm(new))
    assert middle["difference"]["point"] == pytest.approx(metrics.aggregate_iqm(new) - metrics.aggregate_iqm(old))
    assert chance["point"] == pytest.approx(metrics.probability_of_improvement(new, old))
    assert chance["low"] <= chance["point"] <= chance["high"]


def test_the_table_has_a_line_for_every_task_and_names_the_seeds_that_are_missing(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "new", "--against", "old"]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("reach"))
    assert line.split()[:5] == ["reach", "75.0", "%", "25.0", "%"] and "+50.0" in line and "0.88" in line
    assert "Seeds that new lacks: 3." in out and "Seeds that old lacks: 2." in out
    assert re.search(r"\+50\.0 {2,}\S+ to \S+ {2,}0\.88", line), "two spaces or more between columns"


def test_policies_that_were_taken_over_are_no_part_of_the_protocol(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, steps in {"some": 100, "more": 200}.items():
        reuse = {"env_steps": steps, "taken_over": []}
        made_run(Path(label), 1, {"reach": 1.0, "push": 0.2}, result={"reuse": reuse})
    assert compared(capsys, "some", "--against", "more")["comparisons"]


def test_tasks_of_one_side_are_left_out_and_named(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(Path("wide"), 1, {"reach": 1.0, "door": 1.0})
    (found,) = compared(capsys, "wide", "--against", "old")["comparisons"]
    assert list(found["tasks"]) == ["reach"]
    assert found["missing_tasks"] == {"here": ["push"], "against": ["door"]}
    assert main(["compare", "wide", "--against", "old"]) == 0
    assert "Tasks that old lacks, and that are left out: door." in capsys.readouterr().out


def test_one_run_on_a_side_has_no_intervals(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = compared(capsys, "new/seed_1", "--against", "old")["comparisons"]
    assert found["mean"]["difference"]["low"] is None and found["mean"]["difference"]["point"] > 0
    assert main(["compare", "new/seed_1", "--against", "old"]) == 0
    assert "no intervals" in capsys.readouterr().out


def test_several_methods_are_each_compared_and_unfinished_runs_named(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_run(Path("third"), 1, {"reach": 0.1, "push": 0.1})
    made_run(Path("third"), 2, None)
    found = compared(capsys, "new", "third", "--against", "old")
    assert [each["label"] for each in found["comparisons"]] == ["new", "third"]
    assert found["unfinished"] == ["third/seed_2"]


def test_a_task_that_does_not_count_is_in_no_mean(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        made_run(Path("primary"), seed, {"reach": 1.0, "push": 0.0}, result={"mean_over": ["reach"]})
    (found,) = compared(capsys, "primary", "--against", "old")["comparisons"]
    assert found["uncounted_tasks"] == ["push"] and found["mean"]["here"] == pytest.approx(1.0)


def test_a_folder_with_the_runs_of_against_compares_only_the_others(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("one", "other"):
        made_run(Path("all") / label, 1, {"reach": 0.5, "push": 0.5})
    found = compared(capsys, "all", "--against", "all/other")
    assert [each["label"] for each in found["comparisons"]] == ["one"]
    assert main(["compare", "all/other", "--against", "all/other"]) == 2


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("reward_version", "v1"),
        ("horizon", 200),
        ("episodes", 10),
        ("num_goals", 1),
        ("steps_per_task", 10),
        ("protocol", "upstream"),
    ],
)
def test_runs_of_another_protocol_are_refused_unless_asked_for(
    two: Path, fact: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made_run(Path("other"), 1, {"reach": 1.0, "push": 1.0}, result={fact: value})
    assert main(["compare", "other", "--against", "old"]) == 2
    refused = capsys.readouterr().err
    assert f"{fact}: {value!r} and " in refused or f"{fact}: {value} and " in refused, "in the order of the names"
    assert "--across-protocols" in refused and refused.count("\n") == 1
    assert main(["compare", "other", "--against", "old", "--across-protocols"]) == 0
    assert f"The protocols differ: {fact}" in capsys.readouterr().out


def test_a_choice_that_an_older_run_did_not_have_is_no_difference(two: Path) -> None:
    made_run(Path("later"), 1, {"reach": 1.0, "push": 1.0}, result={"steps_after_success": None})
    assert main(["compare", "later", "--against", "old"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new", "--against", "old", "new"], "runs of one method"),
        (["new", "--against", "nowhere"], "existing folder"),
        (["empty", "--against", "old"], "a run, or a folder that holds runs"),
        (["running", "--against", "old"], "finished and evaluated"),
        (["apart", "--against", "old"], "at least one of the tasks"),
        (["returns", "--against", "old", "--across-protocols"], "with the metric success"),
        (["broken", "--against", "old"], "result.json should be one with a mapping"),
        (["new"], "--against"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    two: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    made_run(Path("running"), 1, None)
    made_run(Path("apart"), 1, {"door": 1.0})
    rows = {task: {"mean_return": 1.0} for task in ("reach", "push")}
    made_run(Path("returns"), 1, {"reach": 1.0, "push": 1.0}, result={"headline": "return", "tasks": rows})
    made_run(Path("broken"), 1, {"reach": 1.0}, result={"tasks": {"reach": "high"}, **PROTOCOL})
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
