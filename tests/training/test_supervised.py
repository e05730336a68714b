"""The supervised and auxiliary trainers: exact continuation, schedules, Δ_MTL, and benchmarks that are learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import mtrl
from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.experiment import Experiment, compose
from mtrl.monitoring.metrics import read_metrics
from mtrl.training.supervised import Accuracy, classes_on_test, delta_mtl, macro_scores, single_task_values
from tests.support.figures import panels

pytest.importorskip("sklearn", reason="the extra `vision` is not installed")
SMALL = ["network.width=4", "network.depth=1", "network.fc_width=8", "network.fc_depth=1", "threads=1", "device=cpu"]
DOMAINS = ["benchmark=digit_domains", "benchmark.padding=1", "agent.learning_rate=0.02", *SMALL]
DIGITS = ["benchmark=digits", "benchmark.train_size=40", "agent.batch_size=10", "agent.head_width=8", *SMALL]
PPO = ["agent.ppo.rollout_size=20", "agent.ppo.epochs=2", "agent.ppo.minibatch=10", "agent.ppo.features=8"]


def trainer(options: list[str], steps: int = 400) -> Any:
    return Experiment(compose([*options, f"steps={steps}"])).trainer.start()


def state_of(made: Any, path: Path) -> Any:
    torch.save(made.state_dict(), path)
    return torch.load(path, weights_only=True)


RUNS = {
    "pcgrad": [*DOMAINS, "surgery=pcgrad"],
    "auto_lambda": [*DOMAINS, "weighting=auto_lambda"],
    "shared": ["benchmark=multi_digits", "agent.learning_rate=0.02", *SMALL],
    "rl": [*DIGITS, *PPO],
    "rl-steps": [*DIGITS, *PPO, "agent.engine=steps", "agent.weight_aware=true"],
    "maxl": [*DIGITS, "agent.method=maxl", "agent.weight_aware=true"],
    "human": [*DIGITS, "agent.method=human"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_trainer_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """Saved at an epoch's end and in its middle; another process's random state must not matter."""
    one = trainer(RUNS[name])
    states = []
    for _ in range(6):
        states.append(state_of(one, tmp_path / "state"))
        one.advance()
    last = state_of(one, tmp_path / "last")
    for begin in (3, 4):
        other = trainer([*RUNS[name], "seed=1"])
        torch.manual_seed(123)
        np.random.seed(123)
        other.load_state_dict(states[begin])
        assert other.updates == begin
        for _ in range(begin, 6):
            other.advance()
        assert_same(last, state_of(other, tmp_path / "other"))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{k}")
    else:
        assert one == other, where


def test_schedules() -> None:
    cosine = trainer(DOMAINS, steps=1000)
    assert [cosine.rate(s) for s in (0, 500, 1000, 2000)] == pytest.approx([1, 0.5, 0, 0])
    step = trainer([*DOMAINS, "training.schedule=step", "training.milestone=100", "training.decay=0.1"])
    assert [step.rate(s) for s in (0, 99, 100, 250)] == pytest.approx([1, 1, 0.1, 0.01])
    assert trainer([*DOMAINS, "training.schedule=constant"]).rate(300) == 1
    epochs = trainer([*DIGITS, "agent.method=none", "training.milestone=2"])
    assert [epochs.rate(s) for s in (0, 79, 80, 160)] == pytest.approx([1, 1, 0.5, 0.25])


def test_the_rate_reaches_the_optimiser() -> None:
    made = trainer(DOMAINS, steps=64)
    made.advance()
    made.advance()
    expected = 0.02 * 0.5 * (1 + math.cos(math.pi / 2))
    assert made.agent.optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_reported_accuracy_is_that_of_the_batches_since_the_last_report() -> None:
    made = trainer(DOMAINS)
    found = [made.advance()["accuracy"].numpy() for _ in range(3)]
    np.testing.assert_allclose(made.report()["accuracy"], np.mean(found, 0), rtol=1e-6)
    assert np.isnan(made.report()["accuracy"]).all()


def test_accuracy_counts_every_test_image_of_each_task() -> None:
    """A classifier that always answers 0 is right as often as a task's label is 0, tasks being of unequal size."""
    data = Experiment(compose(DOMAINS)).trainer.suite.data
    shares = [float((data.test.labels[t, :n] == 0).double().mean()) for t, n in enumerate(data.test.counts.tolist())]
    found = classes_on_test(lambda images: torch.zeros(2, images.shape[1], dtype=torch.int64), data)
    np.testing.assert_allclose([np.mean(labels == classes) for labels, classes in found], shares)
    assert int(data.test.counts.sum()) == sum(len(labels) for labels, _ in found) == 898


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_precision_recall_and_f1_are_scikit_learns(classes: int) -> None:
    """With classes that are absent, and others that are never predicted."""
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(classes)
    for _ in range(20):
        labels, found = rng.integers(classes, size=(2, int(rng.integers(1, 30))))
        settings: dict[str, Any] = {"average": "macro", "zero_division": 0}
        wanted = precision_recall_fscore_support(labels, found, **settings)[:3]
        np.testing.assert_allclose(macro_scores(labels, found), wanted)


def test_delta_mtl_is_its_equation() -> None:
    """Two tasks, +10 % and −20 % of the single tasks': −5 %; of an error, to be 20 % less is better: +15 %."""
    values, single = np.array([0.55, 0.64]), np.array([0.5, 0.8])
    assert delta_mtl(values, single) == pytest.approx(-5.0)
    assert delta_mtl(values, single, [False, True]) == pytest.approx(15.0)


def result(path: Path, accuracies: dict[str, float]) -> None:
    path.parent.mkdir(parents=True)
    rows = {task: {"mean_accuracy": value} for task, value in accuracies.items()}
    path.write_text(json.dumps({"tasks": rows}))


def test_single_task_results_of_several_runs_and_seeds(tmp_path: Path) -> None:
    result(tmp_path / "even" / "seed_1" / "result.json", {"even": 0.8})
    result(tmp_path / "even" / "seed_2" / "result.json", {"even": 0.6})
    result(tmp_path / "odd" / "seed_1" / "result.json", {"odd": 0.5})
    result(tmp_path / "joint" / "seed_1" / "result.json", {"even": 0.1, "odd": 0.1})  # is no single-task run
    np.testing.assert_allclose(single_task_values(tmp_path, dict.fromkeys(["even", "odd"], "accuracy")), [0.7, 0.5])
    with pytest.raises(UserError, match="for every task, including noise"):
        single_task_values(tmp_path, dict.fromkeys(["even", "noise"], "accuracy"))
    result(tmp_path / "zero" / "result.json", {"zero": 0.0})
    with pytest.raises(UserError, match="other than 0, as Δ_MTL divides by them"):
        single_task_values(tmp_path, dict.fromkeys(["even", "zero"], "accuracy"))
    (tmp_path / "even" / "seed_1" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"seed_1/result\.json") as caught:
        single_task_values(tmp_path, dict.fromkeys(["even", "odd"], "accuracy"))
    assert "\n" not in str(caught.value)


def test_delta_in_the_result_of_a_run(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Single-task runs first, then all tasks against them, by the command's own path."""
    runs = f"runs={tmp_path}"
    for task in ("even", "odd"):
        experiment.train(compose([*DOMAINS, f"task={task}", "steps=320", runs, f"experiment=single-{task}"]))
    single = single_task_values(tmp_path / "digit_domains", dict.fromkeys(["even", "odd"], "accuracy"))
    options = [*DOMAINS, "surgery=pcgrad", "steps=320", runs, "experiment=joint"]
    _, _, found = experiment.train(compose([*options, f"training.single_task={tmp_path / 'digit_domains'}"]))
    accuracy = np.array([found["tasks"][task]["mean_accuracy"] for task in ("even", "odd")])
    assert found["headline"] == "accuracy" and found["delta_mtl"] is not None
    assert Accuracy(accuracy, 1).per_task["accuracy"].shape == (2,)
    assert found["delta_mtl"] == pytest.approx(delta_mtl(accuracy, single))
    assert list(panels(drawn["learning_curves.png"]))[-2:] == ["even", "odd"]


def test_means_leave_noise_out_and_keep_to_the_primary_tasks(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """In the result, Δ_MTL, the metrics and the picture; single-task runs of other tasks are not needed."""
    result(tmp_path / "single" / "even" / "result.json", {"even": 0.5})
    options = [*DOMAINS, "benchmark.noise_task=true", "steps=640", "training.log_every=320", f"runs={tmp_path}"]
    noisy = ["experiment=noisy", "training.evaluate_every=320"]
    _, folder, found = experiment.train(compose([*options, *noisy]))
    accuracy = {task: row["mean_accuracy"] for task, row in found["tasks"].items()}
    assert found["mean_over"] == ["even", "odd"] and list(accuracy) == ["even", "odd", "noise"]
    assert found["mean_accuracy"] == pytest.approx((accuracy["even"] + accuracy["odd"]) / 2)
    rows = read_metrics(folder.metrics)
    for name in ("train", "evaluation"):
        row = next(row for row in rows if f"{name}/mean_accuracy" in row)
        assert row[f"{name}/mean_accuracy"] == pytest.approx(
            (row[f"{name}/accuracy/even"] + row[f"{name}/accuracy/odd"]) / 2
        )
    single = [f"training.single_task={tmp_path / 'single'}", "weighting=auto_lambda", "weighting.primary=[even]"]
    _, _, found = experiment.train(compose([*options, *single, "experiment=primary"]))
    assert found["mean_over"] == ["even"]
    assert found["mean_accuracy"] == found["tasks"]["even"]["mean_accuracy"]
    assert found["delta_mtl"] == pytest.approx(100 * (found["mean_accuracy"] - 0.5) / 0.5)
    assert f"mean accuracy: {100 * found['mean_accuracy']:.0f} %" in panels(drawn["learning_curves.png"])


def test_the_best_evaluation_stands_beside_the_last(tmp_path: Path) -> None:
    options = [*DOMAINS, "steps=640", "training.evaluate_every=160", f"runs={tmp_path}", "agent.learning_rate=0.1"]
    _, folder, found = experiment.train(compose(options))
    rows = [row for row in read_metrics(folder.metrics) if "evaluation/mean_accuracy" in row]
    values = {row["step"]: row["evaluation/mean_accuracy"] for row in reversed(rows)}
    assert len(values) == 4 and found["best"]["mean_accuracy"] == max(values.values()) == values[found["best"]["step"]]
    assert found["mean_accuracy"] == values[640]


def test_single_task_results_are_looked_for_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Single-task results"):
        trainer([*DOMAINS, f"training.single_task={tmp_path}"])


@pytest.mark.parametrize("options", [DOMAINS, [*DIGITS, "agent.method=human"]], ids=["domains", "parity"])
def test_digits_are_learned(options: list[str]) -> None:
    """Well above chance (20 % and 50 %) in a few seconds, on images not trained on."""
    sizes = ["network.width=8", "network.fc_width=32", "benchmark.train_size=null", "agent.batch_size=20"]
    made = Experiment(compose([*options, *sizes, "steps=4000"]))
    training = made.trainer.start()
    while training.step < 4000:
        training.advance()
    accuracy, _ = made.evaluate(1, "goals")
    assert accuracy.per_task["accuracy"].min() > (0.7 if "digit_domains" in options[0] else 0.8)


@pytest.mark.parametrize("name", ["pcgrad", "shared", "human"])
def test_a_loaded_classifier_is_as_accurate_as_its_result(name: str, tmp_path: Path) -> None:
    options = [*RUNS[name], "steps=400", f"runs={tmp_path}", "video=false"]
    parts, folder, result = experiment.train(compose(options))
    policy = mtrl.load_policy(folder.path)
    test = parts.trainer.suite.data.test
    for index, task in enumerate(policy.tasks):
        count = int(test.counts[index])
        images = test.pool[test.rows[min(index, len(test.rows) - 1), :count]].numpy()
        labels = test.labels[index, :count].numpy()
        classes = policy.act(images, task)
        assert (classes == labels).mean() == pytest.approx(result["tasks"][task]["mean_accuracy"], abs=1e-9)
        assert policy.act(images[0], task) == classes[0]
        for bad in (images[0] / 255, images[:, :, :-1], images[None]):
            with pytest.raises(UserError, match="uint8 images of shape"):
                policy.act(bad, task)
