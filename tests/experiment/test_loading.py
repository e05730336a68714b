from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import mtrl
from mtrl import cli, configs, experiment
from mtrl.experiment.parts import _rebuilt

RUN = [
    "benchmark=toy", "network=mlp", "network.width=8", "network.depth=1", "device=cpu", "agent=sac",
    "agent.batch_size=4", "training.learning_starts=10", "steps=10", "training.final_episodes=2", "video=false",
]  # fmt: skip


def test_evaluating_and_loading_a_run_leave_its_files_threads_and_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *RUN, "threads=1", "experiment=x"]) == 0
    assert "No updates" not in capsys.readouterr().err
    run = Path("runs/toy/x/seed_1")
    assert json.loads((run / "result.json").read_text())["updates"] == 1
    before = (run / "evaluations" / "step_10.json").read_text()
    assert cli.main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert (run / "evaluations" / "step_10.json").read_text() == before
    assert json.loads((run / "evaluations" / "step_10_evaluate.json").read_text())["episodes"] == 1
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    mtrl.load_policy(run)
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads)


def test_a_collector_is_plain_where_the_learner_captures_its_updates() -> None:
    config = experiment.compose([*RUN, "collector=ray", "agent.execution=captured"])
    assert partial(_rebuilt, configs.plain(config), [])()[0].config.execution == "plain"
