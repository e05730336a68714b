"""The committed runs under results/ are records that today's commands can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtrl.experiment.config import restore
from mtrl.monitoring.changes import differences
from mtrl.monitoring.run import RunFolder

RESULTS = Path(__file__).resolve().parents[2] / "results"
RUNS = sorted(path.parent for path in RESULTS.rglob("config.yaml"))


def test_there_are_committed_runs() -> None:
    assert len(RUNS) >= 10


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_committed_run_restores_and_its_result_tells_the_same_options(path: Path) -> None:
    folder = RunFolder.load(path)
    config = restore(folder.config)
    assert config.benchmark.kind == folder.config["benchmark"]["kind"]
    for file in path.glob("result*.json"):
        recorded = json.loads(file.read_text(encoding="utf-8"))["config"]
        restore(recorded)
        assert set(differences(folder.config, recorded)) <= {"steps"}, file.name
