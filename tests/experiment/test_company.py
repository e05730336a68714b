"""Two processes started by torchrun train one run, with the numbers of one process. It can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.experiment import Experiment, compose
from mtrl.monitoring import checkpoints
from mtrl.monitoring.metrics import read_metrics
from tests.support.rays import processes
from tests.support.waiting import wait_for

RUN = [
    "benchmark=toy", "surgery=pcgrad", "network.width=16", "network.depth=1", "agent.batch_size=8", "seed=3",
    "training.learning_starts=20", "training.final_episodes=2", "training.log_every=20", "experiment=RUN", "device=cpu",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
RUN_FOLDER = "runs/toy/RUN/seed_3"


def start(folder: Path, steps: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mtrl.cli", "train"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MTRL_TEST": str(folder)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command, *RUN, f"steps={steps}"], cwd=folder, env=env, **pipes)


@pytest.mark.timeout(1500)
def test_two_processes_train_the_same_run_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They agree up to rounding errors, which grow from update to update. The two resume from a checkpoint once."""
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert cli.main(["train", *RUN, "steps=60"]) == 0
    for steps in (40, 60):
        pair = start(tmp_path / "pair", steps)
        told, error = pair.communicate()
        assert pair.returncode == 0 and told.count("success") == 1, (told, error)
    assert "Going on from step 40" in error
    runs = [tmp_path / name / RUN_FOLDER for name in ("alone", "pair")]
    found = [checkpoints.newest(run / "checkpoints") for run in runs]
    one, both = (state.state["trainer"] for state in found if state)
    assert (one["step"], one["updates"]) == (both["step"], both["updates"]) == (60, 41)
    one, both = one["agent"], both["agent"]
    assert torch.equal(one["generator"], both["generator"])
    for name, value in one["actor"].items():
        torch.testing.assert_close(both["actor"][name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.timeout(1500)
def test_after_a_signal_the_first_process_saves_and_both_end(tmp_path: Path) -> None:
    pair, run = start(tmp_path, 1_000_000), tmp_path / RUN_FOLDER
    wait_for(lambda: any(run.glob("checkpoints/step_*")), pair)
    before = checkpoints.latest(run / "checkpoints")
    assert before is not None
    step, metrics = checkpoints.step_of(before), run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and any(row["step"] > step for row in read_metrics(metrics)), pair)
    pair.send_signal(signal.SIGTERM)
    told = pair.communicate()
    assert "mtrl: interrupted" in told[1] and checkpoints.latest(run / "checkpoints") != before
    assert processes(f"MTRL_TEST={tmp_path}") == []


def test_learners_whose_batches_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="`agent` should be ppo or sac or supervised or td3 where several processes"):
        Experiment(compose(["benchmark=scenes", "device=cpu"]))
