"""CelebA as a benchmark, on small files in the published layout: what is visible is learned, and runs go on exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.data.images import channel_statistics
from mtrl.experiment import Experiment, compose
from mtrl.monitoring.metrics import read_metrics
from tests.support import image_files

SMALL = ["network.width=4", "network.blocks=1", "benchmark.size=16", "agent.batch_size=8", "threads=1", "device=cpu"]
VISIBLE = "benchmark.tasks=[5_o_Clock_Shadow,Arched_Eyebrows]"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    image_files.celeba(tmp_path, 48)
    return ["recipe=celeba", f"benchmark.root={tmp_path}", f"runs={tmp_path / 'runs'}", *SMALL]


def test_forty_tasks_of_the_same_pictures(options: list[str]) -> None:
    made = Experiment(compose([*options, "steps=80"]))
    data, spec = made.trainer.suite.data, made.trainer.suite.spec
    assert spec.num_tasks == 40 and spec.shared_input and spec.image_shape == (3, 16, 16)
    assert data.validation is not None
    for part in (data.train, data.validation, data.test):
        assert part.rows.shape == (1, 16) and part.labels.shape == (40, 16)
    for found, expected in zip((data.mean, data.deviation), channel_statistics(data.train.pool), strict=True):
        torch.testing.assert_close(found, expected)
    training = made.trainer.start()
    training.advance()
    metrics = training.advance()
    assert metrics is not None and metrics["loss"].shape == (40,) and metrics["loss"].isfinite().all()


def test_visible_attributes_are_learned_and_validation_chooses_the_best(options: list[str]) -> None:
    fast = ["network.dropout=0.1", "agent.learning_rate=0.01", "training.log_every=160", "training.evaluate_every=160"]
    _, folder, found = experiment.train(compose([*options, *fast, VISIBLE, "steps=1600"]))
    assert found["mean_accuracy"] > 0.9 and found["mean_error"] == pytest.approx(1 - found["mean_accuracy"])
    rows = {row["step"]: row for row in reversed(read_metrics(folder.metrics)) if "evaluation/mean_accuracy" in row}
    best, chosen = found["best"], "evaluation/mean_validation_accuracy"
    assert rows[best["step"]][chosen] == best["mean_validation_accuracy"] == max(row[chosen] for row in rows.values())
    assert rows[best["step"]]["evaluation/mean_accuracy"] == best["mean_accuracy"]


@pytest.mark.parametrize("method", ["surgery=pcgrad", "weighting=auto_lambda", "surgery=transference"])
def test_a_run_with_dropout_goes_on_exactly(method: str, options: list[str], tmp_path: Path) -> None:
    few = [
        *options,
        VISIBLE,
        method,
        "training.log_every=8",
        "training.final_episodes=0",
        "training.checkpoint_every=16",
    ]
    parts: dict[str, Any] = {}
    for runs, steps in (("whole", 48), ("halves", 16), ("halves", 48)):
        parts[runs], _, _ = experiment.train(compose([*few, f"runs={tmp_path / runs}", f"steps={steps}"]))
    states = [made.agent.policy_state()["network"] for made in parts.values()]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_absent_files_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="celeba should be there with CelebA's files") as error:
        experiment.train(compose(["recipe=celeba", f"benchmark.root={tmp_path}", f"runs={tmp_path / 'runs'}"]))
    assert "\n" not in str(error.value)


def test_statistics_of_many_images_are_those_of_all_pixels() -> None:
    images = torch.randint(256, (2100, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, deviation = channel_statistics(images)
    pixels = images.numpy() / 255
    np.testing.assert_allclose(mean.flatten(), pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation.flatten(), pixels.std((0, 2, 3)), rtol=1e-6)
