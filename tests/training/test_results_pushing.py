"""The script that compares methods on pushing: resumable method by method."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.support.figures import labels

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "results_pushing.py"
TINY = [
    "steps=12", "device=cpu", "video=false", "benchmark.horizon=4", "benchmark.held_out_goals=2", "network.width=8",
    "agent.batch_size=2", "training.learning_starts=3", "training.evaluate_every=6", "training.evaluation_episodes=2",
    "training.final_episodes=2",
]  # fmt: skip


def test_methods_are_kept_one_by_one_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    monkeypatch.chdir(tmp_path)
    assert script["compare"](["mint", *TINY]) == 0
    kept = Path("results/pushing/mint/seed_1")
    assert sorted(p.name for p in kept.iterdir()) == sorted(script["KEPT"])
    first = (Path("runs/pushing/mint/seed_1/metrics.jsonl")).read_bytes()
    assert script["compare"](["mint", "pcgrad", *TINY]) == 0
    assert Path("runs/pushing/mint/seed_1/metrics.jsonl").read_bytes() == first
    assert Path("results/pushing/pcgrad/seed_1/result.json").exists()
    assert len(labels(drawn["comparison.png"].legends[0])) == 2
    assert script["compare"](["mintt"]) == 2
    assert "should be among mint, film" in capsys.readouterr().err
