"""Known durations give the known figures of each bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mtrl.training.behaviour_cloning
from mtrl import cli
from mtrl.agents.bc import BC
from mtrl.agents.ppo import PPO
from mtrl.agents.sac import SAC
from mtrl.bench import cloning, growth, report, shared_input, startup, train, update
from mtrl.data.demo_cache import DemoCache
from mtrl.envs import SUITES
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.gradients.surgery.pcgrad import PCGrad
from mtrl.monitoring import checkpoints
from mtrl.training.trainer import Trainer
from tests.support.clock import Beside, Clock


def test_calls_take_turns_and_the_first_ones_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = Clock(monkeypatch), []

    def call(name: str, milliseconds: list[float]) -> Callable[[], None]:
        def made() -> None:
            clock.spend(milliseconds[order.count(name)])
            order.append(name)

        return made

    calls = {"a": call("a", [90, 90, 1, 2, 3]), "b": call("b", [80, 80, 4, 5, 6])}
    seconds = report.interleaved(calls, 3, warmup=2)
    assert order == ["a", "b"] * 5
    assert seconds["a"] == pytest.approx([0.001, 0.002, 0.003]) and seconds["b"] == pytest.approx([0.004, 0.005, 0.006])


def test_shares_of_the_cloning_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathering a batch takes 2 ms, 6 if its pictures are moved, beside updates of 1 ms, or 3 with PCGrad."""
    for name, value in {"TASKS": 2, "SIZE": 16, "BATCH": 2, "CHANNELS": [4, 8]}.items():
        monkeypatch.setattr(cloning, name, value)
    clock = Clock(monkeypatch)
    monkeypatch.setattr("mtrl.training.behaviour_cloning.ThreadPoolExecutor", Beside(clock))
    clock.takes(BC, "update", 1.0)
    clock.takes(PCGrad, "coefficients", 2.0)
    clock.takes(DemoCache, "batch", 2.0)
    clock.takes(mtrl.training.behaviour_cloning, "shifted", 4.0)
    assert cli.main(["bench", "cloning", "--quick", "--json"]) == 0
    rows = {row["training"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {name: row["ms"] for name, row in rows.items()} == pytest.approx(
        {"joint": 2.0, "pcgrad": 3.0, "moved pictures": 6.0}
    )
    assert [row["share"] for row in rows.values()] == pytest.approx([1 / 2, 1, 1 / 6])
    assert [row["updates_per_second"] for row in rows.values()] == pytest.approx([500, 1000 / 3, 1000 / 6])


OVERLAPPING = {"side_by_side", "split"}


@pytest.mark.parametrize(
    ("slowness", "side_by_side", "waiting", "fastest"),
    [(1.0, 3.0, 1 / 3, OVERLAPPING), (3.0, 9.0, 7 / 9, {"in_turn"}), (0.5, 2.0, 0.0, OVERLAPPING)],
    ids=["overlap", "contention", "updates-longer"],
)
def test_orders_of_the_train_bench(
    slowness: float,
    side_by_side: float,
    waiting: float,
    fastest: set[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two tasks' environments and updates that take 3 and 2 ms alone; side by side, the former take `slowness` times
    that."""
    two = partial(SUITES.config_class("custom"), tasks=["reach-v3", "push-v3"])
    monkeypatch.setattr(train, "SUITES", SimpleNamespace(config_class=lambda _: two, build=SUITES.build))
    monkeypatch.setattr(train, "SIZES", {"tiny": train.Size(8, 4, 2, 0.5, 2, threads=1)})
    monkeypatch.setattr(train, "available_cores", lambda: 2)
    clock = Clock(monkeypatch)
    monkeypatch.setattr("mtrl.training.off_policy.ThreadPoolExecutor", Beside(clock, slowness))
    clock.takes(BatchedEnvs, "step", 3.0)
    clock.takes(SAC, "update", 2.0)
    threads = torch.get_num_threads()
    assert cli.main(["bench", "train", "--quick", "--json"]) == 0
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in result["rows"]}
    ms = {"environments": 3.0, "updates": 2.0, "updates_fewer_threads": 2.0, "in_turn": 5.0}
    ms |= {"side_by_side": side_by_side, "split": side_by_side}
    assert list(rows) == list(ms)
    assert {name: row["ms"] for name, row in rows.items()} == pytest.approx(ms)
    assert {name: row["of_sum"] for name, row in rows.items()} == pytest.approx({k: v / 5 for k, v in ms.items()})
    assert {name: row["of_larger"] for name, row in rows.items()} == pytest.approx({k: v / 3 for k, v in ms.items()})
    waits = {name: waiting if name in OVERLAPPING else 0.0 for name in ms}
    assert {name: row["waiting"] for name, row in rows.items()} == pytest.approx(waits)
    assert rows["environments"]["env_steps_per_second"] == pytest.approx(4 / 3e-3), "two tasks in two copies"
    assert rows["in_turn"]["updates_per_second"] == pytest.approx(1 / 5e-3)
    (summary,) = result["summary"]
    assert summary["fastest"] in fastest
    assert summary["within_1.05_of_sum"] == (side_by_side <= 5.25)
    assert summary["within_1.15_of_larger"] == (side_by_side <= 3.45)


def test_rows_of_the_on_policy_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of four steps of 3 ms, and updates of 20 ms, or 32 ms with PCGrad."""
    clock = Clock(monkeypatch)
    clock.takes(BatchedEnvs, "step", 3.0)
    clock.takes(PPO, "learn", lambda agent, *_: 32.0 if agent.actor_optimizer.per_task else 20.0)
    assert cli.main(["bench", "on_policy", "--quick", "--json"]) == 0
    plain, pcgrad, *compiled = json.loads(capsys.readouterr().out)["rows"]
    assert (plain["surgery"], pcgrad["surgery"]) == ("none", "pcgrad")
    assert [(row["surgery"], row["execution"]) for row in compiled] == [("none", "compiled"), ("pcgrad", "compiled")]
    assert [plain[f"{part}_ms"] for part in ("act", "step", "update")] == pytest.approx([0.0, 12.0, 20.0])
    assert plain["env_steps_per_second"] == pytest.approx(4 * 10 * 8 / 32e-3), "four steps of ten tasks in eight copies"
    assert pcgrad["ms"] == pytest.approx(44.0) and pcgrad["of_joint"] == pytest.approx(44 / 32)
    assert cli.main(["bench", "on_policy", "--suites", "mt25"]) == 2


def test_shares_of_the_guards_bench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Steps of 3 ms beside updates of 20 ms, and rollouts of four steps and an update of 32 ms; each check takes 1 ms,
    and each checkpoint 50 ms more."""
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    monkeypatch.setattr("mtrl.training.off_policy.ThreadPoolExecutor", Beside(clock))
    clock.takes(BatchedEnvs, "step", 3.0)
    clock.takes(SAC, "update", 20.0)
    clock.takes(PPO, "learn", 32.0)
    clock.takes(Trainer, "check_finite", 1.0)
    clock.takes(checkpoints, "save", 50.0)
    assert cli.main(["bench", "guards", "--quick", "--json"]) == 0
    sac, ppo = json.loads(capsys.readouterr().out)["rows"]
    assert (sac["learner"], ppo["learner"]) == ("sac", "ppo")
    assert [row["step_ms"] for row in (sac, ppo)] == pytest.approx([20.0, 44 / 4 / 8]), "eight copies of each task"
    assert [row["update_ms"] for row in (sac, ppo)] == pytest.approx([20.0, 1.0])
    assert [row["check_of_updates"] for row in (sac, ppo)] == pytest.approx([1 / 20 / 50, 1 / 50])
    assert [row["checkpoint_of_run"] for row in (sac, ppo)] == pytest.approx([51 / 20 / 200, 51 / 1.375 / 200])
    assert sac["holds"] and not ppo["holds"]
    assert sac["saved_mb"] > 200 * 10 * 84 * 4 / 1e6 > ppo["saved_mb"], "a row of 84 numbers for each transition"
    assert not any((tmp_path / "runs").iterdir())


def test_rows_of_the_growth_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "TASKS", (2,))
    monkeypatch.setattr(growth, "METHODS", ("pcgrad",))
    assert cli.main(["bench", "growth", "--quick", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["tasks"], row["update"]) == (2, "pcgrad")
    assert row["ms"] == pytest.approx(2 * row["ms_per_task"]) and row["ms"] > 0 and row["peak_mb"] > 50


def test_rows_of_the_precision_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("make_agent", "updates"):
        monkeypatch.setattr(update, name, partial(getattr(update, name), width=16))
    monkeypatch.setattr(update, "BATCH", 8)
    assert cli.main(["bench", "precision", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["networks"], row["part"]) for row in rows] == [
        (networks, part) for networks in ("float32", "bfloat16") for part in ("critic", "actor")
    ]
    assert all(row["error"] < 1e-4 and row["clear_signs"] == 0 for row in rows[:2])
    assert all(1e-4 < row["error"] < 0.5 for row in rows[2:])


def test_rows_of_the_startup_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs run, and we say how long they take."""
    monkeypatch.setattr(startup, "COMMANDS", {"unknown kind": ["train", "benchmark=toi"]})
    milliseconds = {("-c", ""): 20.0, ("-c", "import torch"): 900.0, ("-m", "mtrl.cli", "train", "benchmark=toi"): 80.0}
    Clock(monkeypatch).takes(startup, "_run", lambda words, code: milliseconds[tuple(words)])
    assert cli.main(["bench", "startup", "--quick", "--json"]) == 0
    rows = {row["command"]: row["seconds"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows == pytest.approx({"python": 0.02, "torch": 0.9, "unknown kind": 0.08})
    assert list(rows) == ["python", "torch", "unknown kind"]
    with pytest.raises(RuntimeError, match=r"(?s)-c 1/0 ended with exit code 1: .*ZeroDivisionError"):
        startup._run(["-c", "1/0"], 0)
    with pytest.raises(RuntimeError, match=r"benchmark=toy agent\.nonsense=1 ended with exit code 2"):
        startup._run(["-c", startup._FIRST_STEP, "train", "benchmark=toy", "agent.nonsense=1"], 0)


def test_the_program_until_the_first_step_ends_there() -> None:
    """A training of a million steps would take hours."""
    words = ["train", "benchmark=mt1", "task=reach-v3", "network.width=8", "steps=1000000"]
    startup._run(["-c", startup._FIRST_STEP, *words], 0)


@pytest.mark.parametrize("arguments", [["--methods", "nonsense"], ["--suites", "mt11"]])
def test_unknown_rows_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "update", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_gradients_of_forty_tasks_of_one_input_are_the_same_by_passes_and_batched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sum is the gradient of joint training. The gradient by way of the features is another combination."""
    for name, value in {"TASKS": 4, "BATCH": 3, "SIZE": 8, "WIDTH": 2}.items():
        monkeypatch.setattr(shared_input, name, value)
    found = {name: call() for name, call in shared_input.ways().items()}
    for whole, each, batched, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(each, batched, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(each.sum(0), whole, atol=1e-4, rtol=1e-3)
        assert other.shape == whole.shape and other.isfinite().all()
    assert cli.main(["bench", "shared_input", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["update"] for row in rows] == ["joint", "passes", "batched", "features"] and rows[0]["ratio"] == 1
