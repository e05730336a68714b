"""Sweeps without Ray: what they refuse, and how they follow their trials."""

from __future__ import annotations

import _thread
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtrl import cli, configs, experiment
from mtrl.experiment import processes
from mtrl.experiment.search import Search
from mtrl.experiment.trials import SweepConfig, Trial, _Sweep, trials_of
from mtrl.monitoring.interrupt import Interrupts

WORDS = ["benchmark=toy", "steps=100", "surgery=none,pcgrad", "seed=1,2"]


@pytest.fixture
def trials(elsewhere: Path) -> list[Trial]:
    words = experiment.sweep(WORDS)
    return trials_of(words, [experiment.compose(run) for run in words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ray.cpu=2"], "Option `ray.cpu` should be one of address, cpus, gpus, restarts, asha, keep, metric, trials."),
        (["ray.cpus=0"], "Option `ray.cpus` should be a positive integer. Found 0."),
        (["ray.cpus=some"], "Option `ray.cpus` should be an integer. Found 'some'."),
        (["ray.gpus=-1"], "Option `ray.gpus` should be 0 or more."),
        (["ray.gpus=1.5"], "Option `ray.gpus` should be at most 1, or a whole number. Found 1.5."),
        (["ray.keep=1"], "Option `ray.keep` should be 2 or more."),
        (["ray"], "An option should read key=value. Found 'ray'."),
        (["training.log_every=10,20"], "two runs named"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    words: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", *WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("runs").exists()


@pytest.mark.parametrize("words", [["sweep", *WORDS], ["train", *WORDS[:2], "agent=ppo", "training=on_policy"]])
def test_without_ray_one_line_says_what_to_install(
    words: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    spread = ["collector=ray"] if words[0] == "train" else []
    assert cli.main([*words, *spread]) == 2
    error = capsys.readouterr().err
    assert "used with Ray installed: pip install -e '.[ray]'" in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_trials_label_is_what_it_differs_in(trials: list[Trial]) -> None:
    labels = ["surgery=none seed=1", "surgery=none seed=2", "surgery=pcgrad seed=1", "surgery=pcgrad seed=2"]
    assert [trial.label for trial in trials] == labels
    assert len({trial.path for trial in trials}) == 4 and all(trial.state == "waiting" for trial in trials)


def test_the_output_of_an_earlier_sweep_is_no_beginning(trials: list[Trial]) -> None:
    log = trials[0].path.with_suffix(".log")
    log.parent.mkdir(parents=True)
    log.write_text("an earlier sweep's\n")
    again = Trial(trials[0].words, trials[0].config, trials[0].label)
    assert again.look() == [] and again.state == "waiting"


def test_a_sweep_notices_that_a_trial_begins_and_gets_each_row_once(trials: list[Trial]) -> None:
    trial = trials[0]
    trial.submitted()
    assert trial.look() == [] and trial.state == "waiting"
    trial.path.mkdir(parents=True)
    trial.path.with_suffix(".log").write_text("== mtrl train")
    rows = [{"step": step, "train/mean_success": step / 100} for step in (20, 40, 60)]
    lines = [json.dumps(row) + "\n" for row in rows]
    metrics = trial.path / "metrics.jsonl"
    metrics.write_text(lines[0] + lines[1][:9])
    assert trial.look() == rows[:1] and trial.state == "running"
    assert (trial.step, trial.value) == (20, "success 20 %")
    metrics.write_text("".join(lines))
    assert trial.look() == rows[1:] and trial.look() == []
    metrics.write_text(lines[0])  # it has gone back to a checkpoint
    assert trial.look() == []
    metrics.write_text("".join(lines[:2]))
    assert trial.look() == rows[1:2] and trial.step == 40
    trial.submitted()
    assert trial.state == "waiting", "until its new process has begun"


def test_a_trial_that_is_cancelled_while_its_process_starts_leaves_none(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: Any, **__: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        _thread.interrupt_main()  # as Ray does
        return started[0]

    monkeypatch.setattr(processes, "start", start)
    before = signal.getsignal(signal.SIGINT)
    assert processes.run_in_worker(["train"], elsewhere / "run", elsewhere, 1, {}) == processes.STOPPED
    assert started[0].poll() == -signal.SIGTERM and signal.getsignal(signal.SIGINT) is before


def test_a_sweeps_options_are_read_like_those_of_runs() -> None:
    found = configs.options(SweepConfig, "ray", ["ray.cpus=2e0", "ray.gpus=1", "ray.address='host:1'"])
    assert (found.cpus, found.gpus, found.address) == (2, 1.0, "host:1")


class _OneMachine:
    """As much of Ray as a sweep uses, on one machine whose tasks do nothing and succeed."""

    exceptions = SimpleNamespace(TaskCancelledError=OSError, RayTaskError=OSError, RayError=OSError)

    def __init__(self) -> None:
        self.begun: list[Path] = []

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=lambda _, path, *__: self.begun.append(path) or path)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def wait(self, tasks: list[Path], **_: Any) -> tuple[list[Path], list[Path]]:
        return tasks[:1], tasks[1:]

    def get(self, _: Path) -> tuple[int, str]:
        return 0, ""


def test_a_run_that_a_search_proposes_again_is_not_started_again(elsewhere: Path) -> None:
    pytest.importorskip("optuna", reason="needs Optuna: pip install -e '.[ray]' -c constraints.txt")
    words, found, machine = ["benchmark=toy", "steps=100", "network.width=interval(8,10)"], list[Trial](), _OneMachine()
    search = Search(words, [], 12, "score")
    with Interrupts() as interrupts:
        _Sweep(machine, found, SweepConfig(), [], search).run(interrupts)
    assert len(machine.begun) == len(set(machine.begun)) == len(found) <= 3
    proposed = search._study.get_trials()
    assert len(proposed) == 12 and all(trial.state.is_finished() for trial in proposed)
