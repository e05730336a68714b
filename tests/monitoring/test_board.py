"""What TensorBoard finds in a run's folder, read by its own readers, and the command that opens it."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from mtrl import cli
from mtrl.monitoring.metrics import MetricLog
from mtrl.monitoring.run import RunFolder
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("reach (v3)", "push")
OPTIONS = {"network.width": 8, "benchmark.tasks": ["a", "b"], "agent.clip": None}


def write(path: Path, resume: int | None = None, with_matrix: bool = False, surgery: str = "none") -> None:
    options = {**OPTIONS, "surgery.kind": surgery}
    with RunFolder.open(path, {"steps": 100}) as run, MetricLog(run, resume, options=options) as log:
        run.begin()
        log.write(10, {"train/success": [0.0, 1.0], "actor/loss": [1.0, 2.0], "speed": 3.0}, TASKS)
        log.write(20, {"evaluation/success": [0.0, 1.0], "evaluation/return": [5.0, 9.0]}, TASKS)
        if with_matrix:
            log.write(30, {"critic/cosine": np.eye(2)}, TASKS)


def board(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path / "tensorboard")).Reload()


def charts(found: EventAccumulator) -> dict[str, dict[str, list[str]]]:
    """{category: {chart: the scalars in it}} of the layout written last, in its order."""
    layout: Any = importlib.import_module("tensorboard.plugins.custom_scalar.layout_pb2").Layout()
    layout.ParseFromString(found.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    names = found.Tags()["scalars"]
    return {
        category.title: {chart.title: matching(chart.multiline.tag, names) for chart in category.chart}
        for category in layout.category
    }


def matching(patterns: Iterable[str], names: list[str]) -> list[str]:
    """As TensorBoard matches them: from the beginning of the name."""
    return [name for name in names if any(re.match(pattern, name) for pattern in patterns)]


def test_each_metric_of_all_tasks_is_one_chart(tmp_path: Path) -> None:
    write(tmp_path / "run")
    expected = [("evaluation", ["success", "return"]), ("train", ["success"]), ("actor", ["loss"])]
    wanted = {
        category: {f"{category}/{name}": [f"{category}/{name}/{task}" for task in TASKS] for name in names}
        for category, names in expected
    }
    found = charts(board(tmp_path / "run"))
    assert found == wanted
    assert [[*found], *(list(charts) for charts in found.values())] == [
        [*wanted], *(list(charts) for charts in wanted.values())
    ]  # fmt: skip


def test_matrices_are_images(tmp_path: Path) -> None:
    write(tmp_path / "run", with_matrix=True)
    found = board(tmp_path / "run")
    assert found.Tags()["images"] == ["critic/cosine"]
    assert found.Images("critic/cosine")[0].step == 30


def test_options_stand_beside_each_run_and_its_experiment(tmp_path: Path) -> None:
    write(tmp_path / "mt10" / "one" / "seed_1")
    contents = board(tmp_path / "mt10/one/seed_1").PluginTagToContent(metadata.PLUGIN_NAME)
    session = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert session.group_name == "mt10/one"
    values = {name: value.WhichOneof("kind") for name, value in session.hparams.items()}
    assert values == {
        "network.width": "number_value", "surgery.kind": "string_value", "benchmark.tasks": "string_value",
    }  # fmt: skip
    assert session.hparams["network.width"].number_value == 8


def test_a_continued_run_has_its_layout_and_every_step_once(tmp_path: Path) -> None:
    write(tmp_path / "run")
    once = charts(board(tmp_path / "run"))
    write(tmp_path / "run", 10)
    found = board(tmp_path / "run")
    assert charts(found) == once
    assert [event.step for event in found.Scalars("evaluation/return/push")] == [20]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where `mtrl watch` shows two experiments, one of them of two seeds; ctrl-C ends it well."""
    for seed in (1, 2):
        write(tmp_path / f"runs/mt10/one/seed_{seed}")
    write(tmp_path / "runs/mt10/two/seed_1", surgery="pcgrad")
    command = [sys.executable, "-m", "mtrl.cli", "watch", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1].rstrip("/")
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0


def ask(address: str, path: str, request: dict[str, Any] | None = None) -> Any:
    """What TensorBoard answers; {} where it has not read anything yet that it could answer with."""
    body = None if request is None else json.dumps(request).encode()
    asked = urllib.request.Request(f"{address}/{path}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return {}


def comes_to(wanted: Any, found: Callable[[], Any]) -> None:
    """TensorBoard reads the runs one after another, while it answers: in the end it has what is wanted."""
    until = time.monotonic() + PATIENCE
    while (now := found()) != wanted:
        assert time.monotonic() < until, now


def test_watch_shows_all_runs_and_a_row_for_each_experiment(address: str) -> None:
    names = [f"mt10/{name}/tensorboard" for name in ("one/seed_1", "one/seed_2", "two/seed_1")]
    rows = {"startIndex": 0, "sliceSize": 10, "colParams": [], "allowedStatuses": ["STATUS_UNKNOWN"]}

    def titles() -> list[str]:
        return [part["title"] for part in ask(address, "data/plugin/custom_scalars/layout").get("category", [])]

    def differing() -> list[str]:
        table = ask(address, "data/plugin/hparams/experiment", {"experimentName": ""})
        return [info["name"] for info in table.get("hparamInfos", []) if info.get("differs")]

    def seeds() -> dict[str, int]:
        groups = ask(address, "data/plugin/hparams/session_groups", rows).get("sessionGroups", [])
        return {row["name"]: len(row["sessions"]) for row in groups}

    comes_to(names, lambda: sorted(ask(address, "data/runs")))
    comes_to(["evaluation", "train", "actor"], titles)
    comes_to(["surgery.kind"], differing)
    comes_to({"mt10/one": 2, "mt10/two": 1}, seeds)


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "no such folder"), (["."], "none"), (["--port", "-5"], "0 to 65535")]
)
def test_where_there_is_nothing_to_watch_a_line_says_so(
    arguments: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_without_tensorboard_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (tmp_path / "events.out.tfevents.1").touch()
    assert cli.main(["watch", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "pip install tensorboard" in captured.err and captured.err.count("\n") == 1 and not captured.out
