"""Whole runs of the toy suite by the command line: training, coming back to a run, sweeps, evaluating."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mtrl
from mtrl import cli, experiment
from mtrl.core.errors import UserError
from mtrl.data.replay import ReplayBuffer
from mtrl.experiment.load import load
from mtrl.experiment.runs import headline
from mtrl.monitoring import checkpoints
from mtrl.monitoring.metrics import read_metrics
from mtrl.training.off_policy import OffPolicyTrainer
from tests.support.tiny_runs import TINY, files, run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_train_leaves_all_that_a_run_should_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY, "surgery=pcgrad"]) == 0
    run = run_folder()
    for name in ("config.yaml", "provenance.json", "metrics.jsonl", "result.json", "learning_curves.png"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    result = json.loads((run / "result.json").read_text())
    assert result["steps_per_task"] == 60 and result["steps_total"] == 240
    assert result["updates"] == 51, "one update for each step from the end of the warm-up on"
    assert result["episodes"] == 2 and result["protocol"] == "goals" and result["horizon"] == 25
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"critic/loss/turn-0", "temperature/turn-90", "actor/conflict", "critic/cosine"} <= rows[1].keys()
    printed, messages = capsys.readouterr()
    assert messages.startswith(f"New run {run}: 60 steps, tasks: 4.\n")
    assert printed.startswith("task ") and "turn-180" in printed and "learning_curves.png" in printed
    assert printed.splitlines()[-1] == f"Run: {run}"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a nested state by their path, tensors as their bytes."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{name}/{key}")
    else:
        yield name, value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def stopped_at(step: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command that gets a ctrl-C when it is about to store the transitions of `step`."""
    with monkeypatch.context() as patch:
        store = OffPolicyTrainer._store

        def interrupted(trainer: OffPolicyTrainer, *arguments: Any) -> None:
            if trainer.step + trainer.envs.envs_per_task == step:
                signal.raise_signal(signal.SIGINT)
            store(trainer, *arguments)

        patch.setattr(OffPolicyTrainer, "_store", interrupted)
        return cli.main(arguments)


@pytest.mark.parametrize("step", [5, 30, 47])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_resumed_run_ends_in_the_same_numbers(
    step: int, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*TINY, f"training.deterministic={deterministic}"]
    whole, parts = ["train", *options, "runs=whole"], ["train", *options, "runs=parts"]
    assert cli.main(whole) == 0
    assert stopped_at(step, parts, monkeypatch) == 130
    assert cli.main(parts) == 0
    states = []
    for root in ("whole", "parts"):
        folder = next(Path(root).glob("*/*/seed_*")) / "checkpoints"
        newest = checkpoints.latest(folder)
        assert newest is not None
        states.append(dict(leaves([checkpoints.load(newest)["trainer"], checkpoints.load_replay(newest)])))
    assert len(states[0]) > 100
    assert states[0] == states[1]


def test_a_failure_inside_a_step_leaves_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half done is never saved."""
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: (_ for _ in ()).throw(ArithmeticError("broken")))
    with pytest.raises(ArithmeticError, match="broken"):
        cli.main(["train", *TINY, "training.checkpoint_every=4"])
    newest = checkpoints.latest(run_folder() / "checkpoints")
    assert newest is not None
    assert checkpoints.load(newest)["trainer"]["step"] == 8


def test_metrics_of_a_killed_run_have_no_steps_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_at(47, ["train", *TINY], monkeypatch)
    cli.main(["train", *TINY])
    rows = [json.loads(line) for line in (run_folder() / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/updates" in row] == [20, 40, 60]


def test_a_finished_run_is_reported_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY])
    first, before = capsys.readouterr().out, files(Path("runs"))
    assert cli.main(["train", *TINY]) == 0
    assert files(Path("runs")) == before
    assert capsys.readouterr() == (first, "")


def test_more_steps_extend_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY])
    assert cli.main(["train", *TINY, "steps=80"]) == 0
    assert "Going on from step 60" in capsys.readouterr().err
    assert json.loads((run_folder() / "result.json").read_text())["steps_per_task"] == 80


def test_values_with_commas_are_runs_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Each gives what the same run gives alone, to the last digit."""
    assert cli.main(["train", *TINY, "surgery=none,pcgrad", "seed=range(1,3)"]) == 0
    out, messages = capsys.readouterr()
    assert out.count("Run: runs/toy/") == 4 and "Run 4 of 4: " in messages
    report = out.splitlines()[-1].removeprefix("Report on all runs: mtrl ")
    assert cli.main([*report.split()]) == 0 and Path("runs/toy/report.html").exists()
    together = {path: path.read_bytes() for path in Path("runs").glob("*/*/*/result.json")}
    assert len(together) == 4
    for surgery in ("none", "pcgrad"):
        for seed in (1, 2):
            assert cli.main(["train", *TINY, f"surgery={surgery}", f"seed={seed}", "runs=alone"]) == 0
    for path, content in together.items():
        alone, swept = json.loads(Path("alone", *path.parts[1:]).read_text()), json.loads(content)
        assert alone["tasks"] == swept["tasks"]


def test_other_options_under_the_same_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY, "experiment=mine"])
    before = files(Path("runs"))
    assert cli.main(["train", *TINY, "experiment=mine", "agent.gamma=0.5"]) == 2
    error = capsys.readouterr().err
    assert "agent.gamma" in error and "0.99" in error and "0.5" in error
    assert files(Path("runs")) == before


def test_a_run_of_warm_up_alone_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY, "training.learning_starts=1000"]) == 0
    assert "No updates: the first 1000 steps (training.learning_starts)" in capsys.readouterr().err
    capsys.readouterr()
    assert cli.main(["train", *TINY, "experiment=learns"]) == 0
    assert "No updates" not in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["toy", "gymnasium"])  # Pendulum-v1 does not tell when it is solved
def test_a_run_shorter_than_an_episode_and_a_log_interval_has_a_row_and_curves(benchmark: str) -> None:
    """However it is evaluated. Resumed and extended, no step has two rows of training."""
    short = [*TINY, f"benchmark={benchmark}", "training.log_every=500", "training.final_episodes=0"]
    assert cli.main(["train", *short, "steps=7"]) == 0
    assert (run_folder() / "learning_curves.png").exists()
    (run_folder() / "result.json").unlink()  # as if killed after its last checkpoint
    assert cli.main(["train", *short, "steps=7"]) == 0
    assert [row["step"] for row in read_metrics(run_folder() / "metrics.jsonl")] == [7]
    assert cli.main(["train", *short, "steps=9"]) == 0
    assert [row["step"] for row in read_metrics(run_folder() / "metrics.jsonl")] == [7, 9]


def test_curves_are_of_the_metric_that_has_values() -> None:
    """A run too short for an episode to end has curves of its evaluation; one without values still has a metric."""
    null, known = {"step": 5, "train/return/a": None}, {"step": 5, "evaluation/return/a": -3.0}
    assert headline([[null, known]]) == "evaluation/return"
    assert headline([[null]]) == "train/return"
    assert headline([[null, known, {"step": 9, "train/return/a": -2.0}]]) == "train/return"


def test_every_trained_policy_and_evaluation_has_a_video_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def film(_: experiment.Experiment, path: Path) -> None:
        assert not path.exists()
        path.write_bytes(b"film")

    monkeypatch.setattr(experiment.Experiment, "write_video", film)
    for steps in ("60", "60", "80"):
        assert cli.main(["train", *TINY, f"steps={steps}", "video=true"]) == 0
    assert cli.main(["evaluate", str(run_folder()), "--episodes", "2", "--video"]) == 0
    names = {path.name for path in (run_folder() / "videos").iterdir()}
    assert names == {"step_60.mp4", "step_80.mp4", "step_80_evaluate.mp4"}


def test_evaluate_repeats_the_final_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY])
    capsys.readouterr()
    assert cli.main(["evaluate", str(run_folder()), "--episodes", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    result = json.loads((run_folder() / "result.json").read_text())
    assert facts["tasks"] == result["tasks"] and facts["step"] == 60


def test_a_loaded_policy_acts_as_the_agent() -> None:
    cli.main(["train", *TINY])
    policy = mtrl.load_policy(run_folder())
    parts, _, _ = load(run_folder())
    observation = np.random.default_rng(0).normal(size=(4, 3, 6))
    expected = parts.trainer.policy(observation)
    for index, task in enumerate(policy.tasks):
        np.testing.assert_allclose(policy.act(observation[index], task), expected[index], atol=1e-6)
        np.testing.assert_allclose(policy.act(observation[index, 0], index), expected[index, 0], atol=1e-6)
    for bad in ("turn-1", 4, -1):
        with pytest.raises(UserError, match="turn-0"):
            policy.act(observation[0], bad)
    with pytest.raises(UserError, match="size 6"):
        policy.act(np.zeros(5), 0)


def test_list_names_every_method_and_counts_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for registry in experiment.REGISTRIES[1:5]:
        for kind in registry.kinds:
            assert kind in printed
    assert cli.main(["list", "networks", "--benchmark", "toy"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    mlp = next(row.split() for row in rows if row.startswith("mlp"))
    assert int(mlp[3].replace(",", "")) == (6 + 4) * 400 + 400 + 2 * (400 * 400 + 400) + 400 * 4 + 4


def test_plot_draws_one_run_and_compares_several() -> None:
    pytest.importorskip("rliable", reason="the extra `statistics` is not installed")
    for seed in (1, 2):
        cli.main(["train", *TINY, f"seed={seed}"])
    folders = [str(p) for p in Path("runs").glob("*/*/seed_*")]
    assert cli.main(["plot", folders[0], "--output", "one.png"]) == 0
    assert cli.main(["plot", *folders, "--output", "two.png"]) == 0
    assert cli.main(["plot", str(Path(folders[0]).parent), "--output", "folder.png"]) == 0
    assert Path("one.png").stat().st_size > 5000 and Path("two.png").stat().st_size > 5000
    assert Path("folder.png").read_bytes() == Path("two.png").read_bytes()


WATCHED = [*TINY, "surgery=pcgrad", "weighting=auto_lambda", "diagnostics=[triad,transference]"]


def test_method_pictures_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *WATCHED])
    run = run_folder()
    for kind in ("conflicts", "lambdas", "triad", "affinity"):
        capsys.readouterr()
        assert cli.main(["plot", str(run), "--kind", kind]) == 0
        assert capsys.readouterr().out.strip() == str(run / f"{kind}.png") and (run / f"{kind}.png").stat().st_size
    cli.main(["train", *WATCHED, "experiment=other"])
    both = [str(run), str(Path("runs/toy/other/seed_1"))]
    assert cli.main(["plot", *both, "--kind", "triad", "--output", "both.png"]) == 0
    assert Path("both.png").stat().st_size
    assert cli.main(["plot", *both, "--kind", "lambdas"]) == 2


@pytest.mark.parametrize("kind", ["conflicts", "triad", "affinity", "predictions"])
def test_pictures_of_what_was_not_measured_are_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY])
    capsys.readouterr()
    assert cli.main(["plot", str(run_folder()), "--kind", kind]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["group", str(run_folder()), "--groups", "2"]) == 2
    assert "diagnostics=transference" in capsys.readouterr().err


def test_groups_of_a_run_are_trained_by_the_commands_printed(capsys: pytest.CaptureFixture[str]) -> None:
    watching = ["diagnostics=[triad,transference]", "diagnostics.transference.every=1"]
    cli.main(["train", *TINY, *watching, "surgery=pcgrad", "agent.gamma=0.9"])
    saved = json.loads((run_folder() / "affinity.json").read_text())
    assert saved["tasks"] == ["turn-0", "turn-90", "turn-180", "turn-270"] and saved["step"] == 60
    assert np.array(saved["affinity"]["critic"]).shape == (4, 4)
    capsys.readouterr()
    assert cli.main(["group", str(run_folder()), "--groups", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("mtrl train")]
    trained: set[str] = set()
    for command in commands:
        assert cli.main([*command, "training.final_episodes=1"]) == 0
        config = yaml.safe_load(Path(command[2]).read_text())
        result = json.loads((Path("runs/toy") / config["experiment"] / "seed_1" / "result.json").read_text())
        assert list(result["tasks"]) == config["benchmark"]["tasks"] and result["episodes"] == 1
        assert result["config"]["agent"]["gamma"] == 0.9 and result["config"]["surgery"]["kind"] == "pcgrad"
        assert list(result["config"]["diagnostics"]) == ["triad"]
        trained |= set(result["tasks"])
    assert 1 <= len(commands) <= 2 and trained == set(saved["tasks"])
    for wrong in (["--groups", "5"], ["--groups", "2", "--network", "actor"]):
        assert cli.main(["group", str(run_folder()), *wrong]) == 2


def test_a_supervised_run_is_grouped_too(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="the extra `vision` is not installed")
    small = ["network.width=4", "network.depth=1", "network.fc_width=8", "network.fc_depth=1", "device=cpu"]
    options = ["benchmark=digit_domains", "benchmark.noise_task=true", "agent.batch_size=16", "steps=64", *small]
    assert (
        cli.main(
            ["train", *options, "diagnostics=transference", "diagnostics.transference.every=1", "training.log_every=32"]
        )
        == 0
    )
    capsys.readouterr()
    assert cli.main(["group", str(run_folder()), "--groups", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line)[1:] for line in printed if line.startswith("mtrl train")]
    trained: set[str] = set()
    for command in commands:
        assert cli.main(command) == 0
        config = yaml.safe_load(Path(command[2]).read_text())
        run = Path("runs/digit_domains") / config["experiment"] / "seed_1"
        result = json.loads((run / "result.json").read_text())
        assert list(result["tasks"]) == config["benchmark"]["tasks"]
        trained |= set(result["tasks"])
    assert trained == {"even", "odd", "noise"}


def test_a_saved_configuration_gives_the_same_one_back(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "surgery=gcs", "surgery.primary=[turn-90]", "agent.max_grad_norm=0.5", "experiment='a b'"]
    cli.main(["train", *options])
    file = Path("runs/toy/a b/seed_1/config.yaml")
    shown = []
    for arguments in (options, ["--config", str(file)], ["--config", str(file), "surgery=none", "steps=7"]):
        capsys.readouterr()
        assert cli.main(["train", *arguments, "--show"]) == 0
        shown.append(yaml.safe_load(capsys.readouterr().out))
    assert shown[0] == shown[1]
    assert shown[2] == {**shown[0], "surgery": {"kind": "none"}, "steps": 7}
    assert cli.main(["train", "--config", str(file), "recipe=quick", "--show"]) == 2
    assert "`recipe` should be left out with --config" in capsys.readouterr().err
    Path("bad.yaml").write_text("- a list")
    for name in ("bad.yaml", "absent.yaml"):
        assert cli.main(["train", "--config", name]) == 2
