"""The picture of a sweep of primary tasks, from runs whose weights are written by the test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from mtrl import cli, configs
from mtrl.experiment import compose
from tests.support.figures import image, panels, texts, ticks

TASKS = ["turn-0", "turn-90", "turn-180", "turn-270"]
FIRST = 0.1 * np.ones(4)
RUNS = {
    "a": (1, [], np.array([0.2, 0.4, 0.6, 0.8])),
    "b": (1, ["turn-270"], np.array([1.0, 2.0, -0.5, 4.0])),
    "c": (2, ["3"], np.array([2.0, 2.0, 0.5, 6.0])),
    "d": (1, ["turn-90", "turn-0"], np.array([1.0, 1.0, 0.0, 0.0])),
}
"""Experiment -> seed, primary tasks, last weights; b and c are two seeds of one choice."""


def made(root: Path, name: str, *more: str) -> Path:
    seed, primary, last = RUNS[name]
    options = ["benchmark=toy", "weighting=auto_lambda", f"weighting.primary=[{','.join(primary)}]", *more]
    path = root / name / f"seed_{seed}"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(configs.plain(compose([*options, f"seed={seed}"]))))
    rows = [
        {"step": step, **{f"{part}/weight/{task}": scale * value for part, scale in (("critic", 1), ("actor", 10))
                          for task, value in zip(TASKS, values, strict=True)}}
        for step, values in ((10, FIRST), (20, last))
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_last_weights_by_primary_tasks(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    paths = [str(made(tmp_path, name)) for name in RUNS]
    assert cli.main(["plot", *paths, "--kind", "relationships", "--output", str(tmp_path / "found.png")]) == 0
    found = panels(drawn["found.png"])
    assert list(found) == ["critic: last task weights", "actor: last task weights"]
    expected = np.array([RUNS["a"][2], RUNS["d"][2], (RUNS["b"][2] + RUNS["c"][2]) / 2])
    for scale, panel in zip((1, 10), found.values(), strict=True):
        assert ticks(panel.yaxis) == ["all", "turn-0 + turn-90", "turn-270"] and ticks(panel.xaxis) == TASKS
        np.testing.assert_allclose(image(panel), scale * expected)
        assert texts(panel) == [f"{scale * value:.2f}" for value in expected.flat]


def test_runs_of_other_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["benchmark.num_tasks=3", "weighting.primary=[]"]
    paths = [str(made(tmp_path, "a")), str(made(tmp_path, "b", *more))]
    assert cli.main(["plot", *paths, "--kind", "relationships"]) == 2
    assert f"should be one with the tasks of {paths[0]}" in capsys.readouterr().err
