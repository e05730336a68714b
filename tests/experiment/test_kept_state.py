"""What a run keeps to go on from: the best policy, its rows once, random states; and only what there is room for."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mtrl
from mtrl import cli
from mtrl.core import memory
from mtrl.core.errors import UserError
from mtrl.experiment import session
from mtrl.experiment.parts import Experiment
from mtrl.monitoring import checkpoints
from mtrl.monitoring.run import RunFolder
from mtrl.training.off_policy import OffPolicyTrainer
from mtrl.training.on_policy import OnPolicyTrainer
from tests.support.tiny_runs import TINY, files, run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")
EVALUATED = [*TINY, "training.evaluate_every=10", "training.evaluation_episodes=2", "benchmark.num_tasks=2"]


def best_step(run: Path) -> int:
    path = checkpoints.best(run / "checkpoints")
    assert path is not None
    return checkpoints.load_policy(path)["step"]


@pytest.mark.parametrize("stop_at", [None, 25, 45])
def test_the_best_policy_is_the_first_of_the_best_evaluations(
    stop_at: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the run was killed. How many of four episodes were solved after each step is given here."""
    solved, evaluate = {10: 0, 20: 2, 30: 1, 40: 3, 50: 3, 60: 2}, Experiment.evaluate
    store = OffPolicyTrainer._store

    def evaluated(experiment: Experiment, *arguments: Any) -> Any:
        result, facts = evaluate(experiment, *arguments)
        success = np.arange(4).reshape(2, 2) < solved[experiment.trainer.step]
        return replace(result, success=success), facts  # pyright: ignore[reportCallIssue]

    def killed(trainer: OffPolicyTrainer, *arguments: Any) -> None:
        if trainer.step == stop_at:
            raise ArithmeticError("killed")
        store(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "evaluate", evaluated)
        if stop_at:
            patch.setattr(OffPolicyTrainer, "_store", killed)
            with pytest.raises(ArithmeticError):
                cli.main(["train", *EVALUATED])
            patch.setattr(OffPolicyTrainer, "_store", store)
        assert cli.main(["train", *EVALUATED]) == 0
    run = run_folder()
    kept = {file.name for file in (run / "checkpoints").glob("best_*")}
    assert best_step(run) == 40 and kept == {"best_20.pt", "best_40.pt"}, "step_30 is a checkpoint still"
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--checkpoint", "best", "--episodes", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    there = next(row for row in rows if row["step"] == 40 and "evaluation/mean_success" in row)
    assert facts["step"] == 40 and facts["mean_return"] == pytest.approx(there["evaluation/mean_return"])
    assert mtrl.load_policy(run, checkpoint="best").tasks == mtrl.load_policy(run).tasks


def test_a_run_without_evaluations_on_the_way_has_no_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY]) == 0
    assert cli.main(["evaluate", str(run_folder()), "--checkpoint", "best"]) == 2
    assert "should be a run with evaluations during training (training.evaluate_every)" in capsys.readouterr().err
    with pytest.raises(UserError, match="one of newest, best"):
        mtrl.load_policy(run_folder(), checkpoint="worst")


def test_a_run_killed_before_its_result_has_the_last_evaluation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise ArithmeticError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", killed)
        with pytest.raises(ArithmeticError):
            cli.main(["train", *EVALUATED])
    assert cli.main(["train", *EVALUATED]) == 0
    lines = (run_folder() / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 20, 30, 40, 40, 50, 60, 60, 60]


def test_rows_after_a_kill_have_the_metrics_of_the_last_update_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written more often than rollouts are completed, and the run is killed in the middle of a rollout."""
    options = [word for word in TINY if "learning_starts" not in word and "batch_size" not in word]
    options += ["agent=ppo", "training=on_policy", "training.rollout_steps=20", "training.envs_per_task=1",
                "agent.minibatches=1", "training.log_every=5", "training.checkpoint_every=15"]  # fmt: skip
    assert cli.main(["train", *options, "experiment=whole"]) == 0
    add = OnPolicyTrainer.advance

    def killed(trainer: OnPolicyTrainer) -> Any:
        if trainer.step == 33:
            raise ArithmeticError("killed")
        return add(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(OnPolicyTrainer, "advance", killed)
        with pytest.raises(ArithmeticError):
            cli.main(["train", *options, "experiment=parts"])
    assert cli.main(["train", *options, "experiment=parts"]) == 0
    rows = [(Path("runs/toy", name, "seed_1") / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    kept = [
        [
            {k: v for k, v in json.loads(row).items() if k != "time" and "throughput" not in k}
            for row in text.splitlines()
        ]
        for text in rows
    ]
    assert kept[0] == kept[1] and sum("critic/grad_norm" in row for row in kept[0]) == 9


def test_python_and_numpy_draw_the_same_in_every_run_of_a_seed() -> None:
    drawn = []
    for name in ("one", "two"):
        random.seed()
        np.random.seed()
        assert cli.main(["train", *TINY, f"experiment={name}"]) == 0
        drawn.append((random.random(), np.random.rand()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("options", [[], ["agent.n_step=3"]])
def test_a_replay_beyond_the_memory_is_refused_before_it_is_allocated(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OffPolicyTrainer, "start", lambda *_: pytest.fail("allocated"))
    huge = ["benchmark=mt10", "training.buffer_size=1000000000", "steps=1000000000", "device=cpu", *options]
    assert cli.main(["train", *huge]) == 2
    error = capsys.readouterr().err
    needed = "3,360.00 GB" if not options else "3,400.00 GB"
    assert f"The replay (training.buffer_size) should be one that fits the memory: it needs {needed}" in error
    assert "GB free" in error and error.count("\n") == 1 and not list(Path(".").rglob("config.yaml"))


def test_a_replay_beyond_the_disk_is_refused_and_the_run_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The space that its checkpoints take already counts as free."""
    assert cli.main(["train", *TINY]) == 0
    before, taken = files(run_folder()), sum(f.stat().st_size for f in run_folder().rglob("checkpoints/**/*.pt"))
    monkeypatch.setattr(OffPolicyTrainer, "data_bytes", 10**9)
    needed = 10**9 + 2 * (10**9 * 30 // 81 + 2**25)  # a checkpoint every 30 of 81 steps, and two blocks begun
    for free, code in [(needed - taken - 1, 2), (needed - taken, 0)]:
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(session.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert cli.main(["train", *TINY, "steps=80"]) == code
        assert code == 0 or (files(run_folder()) == before and "it needs 1.81 GB" in capsys.readouterr().err)


def test_free_memory_is_at_most_what_the_system_has() -> None:
    found = memory.free_bytes(torch.device("cpu"))
    assert found is None or 2**20 < found < 2**50
    memory.require_room("x", 5, None, "there")
    with pytest.raises(UserError, match=r"x should be one that fits there: it needs 2\.00 GB. Found '1\.00 GB free'"):
        memory.require_room("x", 2e9, 1e9, "there")
