"""The copy for Weights & Biases, by the real package without a network. It can neither change nor stop a run."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mtrl import cli
from mtrl.monitoring.mirror import Mirror
from mtrl.monitoring.run import RunFolder
from tests.support.tiny_runs import TINY, run_folder
from tests.support.wandb_files import history, records

SHORT = [*TINY, "steps=20", "training.log_every=10", "training.final_episodes=1"]


@pytest.fixture
def offline(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Weights & Biases writes nothing but what belongs to a run."""
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(elsewhere / "no account of this machine's user"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(elsewhere / "of_wandb"))
    for name in ("WANDB__SERVICE_WAIT", "WANDB_INIT_TIMEOUT"):  # seconds; its process may start slowly
        monkeypatch.setenv(name, "300")
    return elsewhere


def logs(run: Path) -> list[list[Any]]:
    """The records of each process that wrote to a run."""
    return [records(file) for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]


def started(found: list[Any]) -> Any:
    return next(record.run for record in found if record.WhichOneof("record_type") == "run")


def test_a_run_and_its_continuation_are_one_run_with_the_same_numbers(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run itself is the same as without the copy: its result, and its metrics except for times."""
    assert cli.main(["train", *SHORT, "wandb=off", "runs=plain"]) == 0
    assert cli.main(["train", *SHORT, "wandb=offline"]) == 0
    assert "wandb sync" in capsys.readouterr().err
    plain = next(Path("plain").glob("*/*/seed_*"))
    assert not (plain / "wandb").exists()
    assert untimed(plain) == untimed(run_folder())
    assert cli.main(["train", *SHORT, "steps=30", "wandb=offline"]) == 0
    first, second = logs(run_folder())
    assert started(first).run_id == started(second).run_id != ""
    assert started(first).project == "mtrl" and started(first).run_group == f"toy/{run_folder().parent.name}"
    config = {item.key: json.loads(item.value_json) for item in started(first).config.update}
    assert config["network"]["width"] == 8 and config["seed"] == 1
    copied = {row.pop("step"): row for row in [*history(first), *history(second)]}
    kept: dict[int, dict[str, float]] = {}
    for line in (run_folder() / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        kept.setdefault(row["step"], {}).update(numbers)
    assert sorted(copied) == sorted(kept) == [10, 20, 30]
    for step, row in kept.items():
        numbers = {name: value for name, value in row.items() if name not in ("step", "time")}
        assert {name: value for name, value in copied[step].items() if name in numbers} == numbers


def untimed(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics without what depends on the machine's pace."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time" and not k.startswith("throughput/")} for row in rows]


def folder(path: Path) -> RunFolder:
    return RunFolder.open(path / "toy" / "one" / "seed_1", {"steps": 1, "seed": 1})


class Broken:
    """A run there whose disk is full."""

    url = "nowhere"

    def log(self, *_: Any, **__: Any) -> None:
        raise OSError("no space left")

    finish = log


@pytest.mark.parametrize("fails", ["init", "log"])
def test_what_fails_there_is_told_once_and_stops_nothing(
    fails: str, offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(**_: Any) -> Broken:
        if fails == "init":
            raise RuntimeError("the network\nis unreachable")
        return Broken()

    monkeypatch.setattr(importlib.import_module("wandb"), "init", start)
    with folder(offline) as run:
        mirror = Mirror("online", run)
        for step in range(3):
            mirror.scalars(step, {"loss": 1.0})
        mirror.close()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mtrl: ")]
    reason = "the network is unreachable" if fails == "init" else "no space left"
    assert told == [f"mtrl: the run continues without Weights & Biases, which failed ({reason})."]


def test_without_an_account_the_run_goes_on(offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with folder(offline) as run:
        Mirror("online", run).close()
    assert "the run continues without Weights & Biases" in capsys.readouterr().err


def test_a_missing_package_is_named_before_a_run_begins(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    for mode, message in (("offline", "[wandb]"), ("maybe", "off, offline, online")):
        assert cli.main(["train", *TINY, f"wandb={mode}"]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1
    assert not Path("runs").exists()
