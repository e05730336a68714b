"""The script that compares methods on the keyframe tasks: resumable method by method, and fair."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable
from tests.support.figures import ticks

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "results_keyframes.py"
TINY = [
    "steps=2", "device=cpu", "training.final_episodes=1", "training.shift=0", "agent.batch_size=2",
    "benchmark.tasks=[reach_target]", "network.channels=[4,8]",
]  # fmt: skip


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(SCRIPT))


def store(method: str, success: dict[str, float], seed: int = 1, updates: int = 450) -> None:
    folder = Path("results/keyframes") / method / f"seed_{seed}"
    folder.mkdir(parents=True)
    tasks = {task: {"mean_success": share} for task, share in success.items()}
    facts = {"updates": updates, "training_seconds": {"update": 1.0}, "seconds": 1.0, "episodes": 25, "seed": seed}
    mean = sum(success.values()) / len(success)
    (folder / "result.json").write_text(json.dumps({**facts, "mean_success": mean, "tasks": tasks}))


def test_a_task_counts_if_both_controls_fail_it(script: dict[str, Any]) -> None:
    store("equal", {"lift": 0.8, "stack": 0.76, "press": 1.0, "slide": 1.0})
    assert script["summary"]()["counted"] == [], "without the controls nothing counts"
    store("blind", {"lift": 0.0, "stack": 0.2, "press": 0.24, "slide": 0.0})
    store("mean-pose", {"lift": 0.04, "stack": 0.0, "press": 0.0, "slide": 0.4})
    facts = script["summary"]()
    assert facts["counted"] == ["lift", "stack"]
    assert facts["methods"]["equal"]["solved"] == 1
    script["write"](facts)
    text = Path("results/keyframes/table.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["counted"] for row in rows] == ["True", "True", "False", "False", ""]
    assert [row["equal"] for row in rows] == ["0.8", "0.76", "1.0", "1.0", "0.89"]


def test_seeds_are_averaged_and_a_control_must_fail_with_each(script: dict[str, Any]) -> None:
    for seed, (lift, stack) in {1: (1.0, 0.9), 2: (0.7, 0.6)}.items():
        store("equal", {"lift": lift, "stack": stack}, seed)
        store("blind", {"lift": 0.0, "stack": 0.0 if seed == 1 else 0.3}, seed)
        store("mean-pose", {"lift": 0.2, "stack": 0.0}, seed)
    facts = script["summary"]()
    assert facts["counted"] == ["lift"]
    equal = facts["methods"]["equal"]
    assert equal["tasks"] == pytest.approx({"lift": 0.85, "stack": 0.75}) and equal["mean_success"] == pytest.approx(
        0.8
    )
    assert equal["seeds"] == [1, 2] and equal["solved"] == 1


def test_methods_are_kept_one_by_one_and_not_run_again(
    script: dict[str, Any], capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    script["compare"].__globals__["DEMOS"] = 2
    assert script["compare"](["equal", *TINY]) == 0
    kept = Path("results/keyframes/equal/seed_1")
    assert sorted(p.name for p in kept.iterdir()) == sorted(script["KEPT"])
    assert json.loads(Path("results/keyframes/collection.json").read_text())["demonstrations"] == 2
    first = Path("runs/keyframes/equal/seed_1/metrics.jsonl").read_bytes()
    assert script["compare"](["equal", "blind", "mean-pose", *TINY]) == 0
    assert Path("runs/keyframes/equal/seed_1/metrics.jsonl").read_bytes() == first
    (panel,) = drawn["scores.png"].axes
    assert ticks(panel.yaxis) == ["reach_target", "mean"] and len(ticks(panel.xaxis)) == 3
    assert set(json.loads(Path("results/keyframes/summary.json").read_text())["methods"]) == {
        "equal", "blind", "mean-pose",
    }  # fmt: skip
    assert script["compare"](["pcgrad", *TINY, "steps=3"]) == 2
    assert "equally many updates" in capsys.readouterr().err
    assert script["compare"](["equall"]) == 2
    assert "should be among equal, dwa" in capsys.readouterr().err
