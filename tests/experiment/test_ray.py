"""Sweeps and collectors on a Ray cluster of two nodes give the results of one process alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mtrl import cli, experiment
from mtrl.training.on_policy import OnPolicyTrainer
from tests.faults.commands import digest, outcome
from tests.support.collections import Watch
from tests.support.rays import cluster, command, parent, processes, stopped
from tests.support.waiting import PATIENCE

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]' -c constraints.txt")
pytestmark = [pytest.mark.timeout(2500), pytest.mark.filterwarnings("ignore:::ray")]

TRIAL = [
    "benchmark=toy", "steps=100", "network.width=8", "agent.batch_size=4", "training.learning_starts=20", "device=cpu",
    "training.final_episodes=2", "training.log_every=50", "training.checkpoint_every=40",
]  # fmt: skip
SWEPT = ["network=multi_head,mint", "surgery=none,pcgrad", "seed=range(1,4)"]
KILLS = 3


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch, cluster(monkeypatch, tmp_path_factory.mktemp("cluster")) as found:
        yield found


class Killer(threading.Thread):
    """Ends the sweep by a signal once a trial has a checkpoint. In the continued sweep, it kills the Ray workers of
    trials that have one, and last the process of a trial itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self.killed, self.again = folder, dict[int, Path](), threading.Event()

    def run(self) -> None:
        while len(self.killed) < KILLS:
            for lock in self._folder.glob("runs/toy/*/seed_*/.lock"):
                with contextlib.suppress(OSError, ValueError):
                    self._visit(lock.parent, int(lock.read_text()))
            time.sleep(0.01)

    def _visit(self, run: Path, pid: int) -> None:
        if not self._begun(run):
            return
        if not self.again.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            self.again.wait()
        elif run not in self.killed.values() and len(self.killed) < KILLS and command(pid):
            with stopped(pid):  # so that it does not end between the last look at it and its death
                if self._begun(run):
                    worker = parent(pid)
                    assert command(worker).startswith("ray::"), command(worker)
                    self.killed[pid] = run
                    os.kill(pid if len(self.killed) == KILLS else worker, signal.SIGKILL)

    def _begun(self, run: Path) -> bool:
        return any(run.glob("checkpoints/step_*")) and not (run / "result.json").exists()


def test_a_sweep_whose_workers_are_killed_gives_the_same_runs_as_mtrl_train(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("swept", "alone"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "swept")
    killer = Killer(tmp_path / "swept")
    killer.start()
    assert cli.main(["sweep", *TRIAL, *SWEPT, f"ray.address={address}"]) == 130
    assert "mtrl: interrupted" in capsys.readouterr().err
    for lock in Path("runs").rglob(".lock"):
        assert not command(int(lock.read_text())), "each trial has saved its step and ended"
    killer.again.set()
    assert cli.main(["sweep", *TRIAL, *SWEPT, f"ray.address={address}"]) == 0
    printed, told = capsys.readouterr()
    assert len(killer.killed) == KILLS and len(re.findall("is started again, restart 1", told)) == KILLS, told
    assert printed.count("success") == 12 and "Report on all runs: mtrl report" in printed
    cores = {re.findall(r"\(cores: (\w+)", log.read_text())[0] for log in Path("runs").rglob("seed_*.log")}
    assert len(os.sched_getaffinity(0)) < 2 or cores <= {str(core) for core in os.sched_getaffinity(0)}

    monkeypatch.chdir(tmp_path / "alone")
    assert cli.main(["train", *TRIAL, *SWEPT, "threads=1"]) == 0
    runs = sorted(path.relative_to("runs") for path in Path("runs").glob("*/*/seed_*"))
    assert len(runs) == 12
    for run in runs:
        assert outcome(tmp_path / "swept/runs" / run) == outcome(tmp_path / "alone/runs" / run), run

    monkeypatch.chdir(tmp_path / "swept")
    capsys.readouterr()
    assert cli.main(["sweep", *TRIAL, *SWEPT, "ray.address=nowhere"]) == 0, "a finished sweep needs no cluster"
    assert capsys.readouterr().out == printed
    assert cli.main(["report", "runs"]) == 0


def test_a_search_makes_its_trials_and_can_be_continued_with_more(
    address: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="needs Optuna: pip install -e '.[ray]' -c constraints.txt")
    words = [*TRIAL, "steps=40", "agent.learning_rate=log(1e-4,1e-2)", "network.depth=interval(1,2)"]
    words += [f"ray.address={address}", "ray.metric=train/updates"]
    printed = []
    for count in (2, 3):
        assert cli.main(["sweep", *words, f"ray.trials={count}"]) == 0
        out, told = capsys.readouterr()
        assert told.count("has finished, ") == (2 if count == 2 else 1)
        printed.append(out.splitlines())
    assert printed[1][:2] == printed[0][:2] and "success" in printed[1][2]
    assert re.fullmatch(r"Best: agent.learning_rate=\S+ network.depth=[12] \(train/updates 21\)", printed[1][3])
    assert len(list(Path("runs").glob("*/*/seed_1/result.json"))) == 3


PPO = [
    "benchmark=toy", "agent=ppo", "training=on_policy", "device=cpu", "network.width=16", "network.depth=1",
    "training.envs_per_task=4", "training.rollout_steps=200", "agent.epochs=2", "agent.minibatches=2", "steps=1000000",
    "collector.workers=2", "agent.final_max_std=0.3",
]  # fmt: skip


def trainer(*options: str) -> OnPolicyTrainer:
    return cast("OnPolicyTrainer", experiment.Experiment(experiment.compose([*PPO, *options])).trainer.start())


def rollout(loop: OnPolicyTrainer) -> dict[str, Any]:
    """Train up to the next update, and return the state after it."""
    while loop.advance() is None:
        pass
    episodes = {name: value.tolist() for name, value in loop.report().items()}
    state = {key: value for key, value in loop.state_dict().items() if key != "episodes"}
    return {"state": digest(state), "transitions": digest(vars(loop.rollout)), "episodes": episodes}


def kill_a_collector(title: str) -> None:
    """Wait until a process of this test's cluster has a title, and kill it."""
    mark = f"MTRL_TEST_CLUSTER={os.environ['MTRL_TEST_CLUSTER']}"
    until = time.monotonic() + 2 * PATIENCE
    while time.monotonic() < until:
        for pid in [pid for pid in processes(mark) if command(pid) == title][:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return
    raise AssertionError(f"no process {title}")


def test_two_collectors_give_the_same_as_one_process_though_one_is_killed(address: str) -> None:
    alone, spread = trainer(), trainer("collector=ray", f"collector.address={address}")
    try:
        assert rollout(alone) == rollout(spread)
        kill_a_collector("ray::Worker")  # while it waits
        assert rollout(alone) == rollout(spread)
        killer = threading.Thread(target=kill_a_collector, args=["ray::Worker.collect"])
        killer.start()
        while killer.is_alive():  # while it collects
            assert rollout(alone) == rollout(spread)
        assert rollout(alone) == rollout(spread)
        assert cast("Any", spread.collector).lost == 2
        saved = {"spread": spread.state_dict(), "alone": alone.state_dict()}
        assert rollout(alone) == rollout(spread)
        spread.load_state_dict(saved["alone"])
        alone.load_state_dict(saved["spread"])
        assert rollout(alone) == rollout(spread)
    finally:
        alone.close()
        spread.close()


SAC = [
    "benchmark=toy", "surgery=pcgrad", "device=cpu", "network.width=48", "network.depth=2", "steps=1000000",
    "agent.batch_size=48", "agent.learning_rate=3e-3", "agent.gamma=0.9", "agent.initial_temperature=0.05",
    "training.learning_starts=300", "training.envs_per_task=4", "training.update_to_data=0.25", "collector=ray",
    "collector.workers=2", "training.collector_steps=10", "training.max_staleness=12",
]  # fmt: skip


def test_sac_learns_from_two_collectors_though_one_is_killed_and_counts_each_step_once(address: str) -> None:
    loop: Any = experiment.Experiment(experiment.compose([*SAC, f"collector.address={address}"])).trainer.start()
    watch = Watch(loop)
    try:
        watch.learn(1000)
        killer = threading.Thread(target=kill_a_collector, args=["ray::Worker.collect"])
        killer.start()
        while killer.is_alive():
            watch.learn(loop.step + 20)
        while loop.collector.lost == 0:
            watch.learn(loop.step + 20)
        saved = {"state": loop.state_dict(), "replay": loop.data_state(), "ends": dict(watch.ends)}
        watch.learn(loop.step + 100)
        loop.load_state_dict(saved["state"])
        loop.load_data_state(saved["replay"])
        watch.ends |= saved["ends"]
        metrics = watch.learn(max(loop.step, 4500))
        assert loop.collector.lost == 1 and len(watch.ends) == 2
        assert 0 < metrics["collector/staleness"] <= metrics["collector/largest_staleness"] <= max(watch.stale) <= 12
        assert loop.evaluate(20, "goals").per_task["success"].mean() > 0.8
    finally:
        loop.close()
