"""Training on pixels from the command's own path: measures, Δ_MTL, noise, exact continuation, and use of the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mtrl
from mtrl import cli, experiment
from mtrl.core.errors import UserError
from mtrl.experiment import Experiment, compose
from mtrl.monitoring.metrics import read_metrics
from tests.support.dense_files import write_nyuv2
from tests.support.dense_toys import SMALL

SIZE = (16, 16)
STEPS = 8


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a tiny run on four pictures, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_nyuv2(tmp_path / "data", SIZE, 4)
    network = [f"network.{name}={value}" for name, value in SMALL.items()]
    sizes = [f"benchmark.size=[{SIZE[0]},{SIZE[1]}]", "benchmark.crop=[12,16]", "agent.batch_size=2"]
    return ["benchmark=nyuv2", f"steps={STEPS}", "device=cpu", "training.log_every=4", *sizes, *network]


def test_the_papers_settings_go_with_the_benchmark(options: list[str]) -> None:
    config = compose(["benchmark=nyuv2"])
    assert (config.agent.kind, config.training.kind, config.network.kind) == ("dense", "dense", "split")
    assert (config.agent.normals_loss, config.agent.batch_size, config.network.depth) == ("l1", 4, "50")
    assert compose(["benchmark=scenes"]).agent.normals_loss == "cosine"


def test_delta_has_the_signs_of_the_measures(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Against single-task runs, the noise left out: more mIoU is better, less error of depth and of normals."""
    singles = {}
    for task in ("segmentation", "depth", "normals"):
        _, _, found = experiment.train(compose([*options, f"task={task}", f"experiment=single-{task}"]))
        singles |= found["tasks"]
    joint = [*options, "benchmark.noise_task=true", "surgery=pcgrad", "training.single_task=runs", "experiment=joint"]
    assert cli.main(["train", *joint, "video=false"]) == 0
    folder = Path("runs/nyuv2/joint/seed_1")
    found = json.loads((folder / "result.json").read_text())
    relative = {
        (task, name): found["tasks"][task][name] / singles[task][name] - 1
        for task, name in (
            ("segmentation", "mean_miou"),
            ("depth", "mean_absolute_error"),
            ("normals", "mean_mean_angle"),
        )
    }
    up, depth, normals = relative.values()
    assert found["delta_mtl"] == pytest.approx(100 * (up - depth - normals) / 3)
    assert found["mean_over"] == ["segmentation", "depth", "normals"] and found["episodes"] == 4
    scores = [found["tasks"][task]["mean_score"] for task in found["mean_over"]]
    assert found["mean_score"] == pytest.approx(np.mean(scores)) and found["headline"] == "score"
    assert set(found["tasks"]["noise"]) == {"mean_score", "mean_absolute_error"}
    shown = capsys.readouterr().out
    assert f"Δ_MTL: {found['delta_mtl']:+.2f} %" in shown and "4 images per task" in shown
    names = {"segmentation", "depth", "normals", "noise"}
    drawn = Experiment(compose(joint)).trainer.pictures()
    assert {name: picture.shape for name, picture in drawn.items()} == {
        f"predictions/{name}": (SIZE[0], 3 * SIZE[1], 3) for name in names
    }
    assert cli.main(["plot", str(folder), "--kind", "predictions", "--output", "found.png"]) == 0
    assert np.asarray(Image.open("found.png").convert("L")).std() > 10, "the picture is nearly one colour"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{found['delta_mtl']:+.1f} %" in page
    rows = read_metrics(folder / "metrics.jsonl")
    assert {"train/mean_score", "train/score/depth", "weight/noise", "loss/normals"} <= set().union(*rows)
    last = next(row for row in reversed(rows) if "evaluation/miou/segmentation" in row)
    assert last["evaluation/miou/segmentation"] == pytest.approx(found["tasks"]["segmentation"]["mean_miou"])
    assert last.get("evaluation/miou/depth") is None


def test_single_task_results_are_looked_for_before_the_training(options: list[str]) -> None:
    with pytest.raises(UserError, match="for every task"):
        experiment.train(compose([*options, "training.single_task=data"]))


def test_a_saved_trainer_goes_on_exactly(options: list[str], tmp_path: Path) -> None:
    """In the middle of an epoch, with crops, scales, flips and a second batch."""

    def trainer(seed: int) -> Any:
        return Experiment(compose([*options, "weighting=auto_lambda", f"seed={seed}"])).trainer.start()

    one, other = trainer(0), trainer(0)
    for _ in range(3):
        one.advance()
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(2):
        first, second = one.advance(), other.advance()
        assert all(torch.equal(first[name], second[name]) for name in first)
    np.testing.assert_array_equal(one.report()["score"], other.report()["score"])


def test_the_policy_tells_what_the_evaluation_measures(options: list[str], tmp_path: Path) -> None:
    parts, folder, found = experiment.train(compose([*options, "experiment=joint"]))
    policy = mtrl.load_policy(folder.path)
    picture = np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8)
    classes, depth, normals = (policy.act(picture, task) for task in parts.tasks)
    assert [classes.shape, depth.shape, normals.shape] == [(1, *SIZE), (1, *SIZE), (3, *SIZE)]
    assert classes.dtype == np.int64 and classes.max() < 13
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(policy.act(np.stack([picture] * 2), "depth")[1], depth, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="uint8 pictures of shape"):
        policy.act(picture[0], "depth")
    _, _, again = experiment.evaluate_run(folder.path, 1)
    assert again["tasks"] == found["tasks"]


def test_training_that_diverges_stops_in_one_line(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["agent.learning_rate=1e30", "training.log_every=2", "training.checkpoint_every=2", "steps=40"]
    assert cli.main(["train", *options, *fast]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mtrl: Training's numbers should be finite. Found at step ") and "loss" in error


def test_networks_of_a_benchmark_are_listed_with_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "networks", "--benchmark", "scenes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["mtan", "split"] and rows[0]["parameters"] > rows[1]["parameters"] > 0
