"""A run's files, damaged in any way: every command gives a right result, or one line that says what is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import mtrl
from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.monitoring import checkpoints, provenance
from mtrl.monitoring import files as files_module
from mtrl.monitoring import run as run_module
from mtrl.monitoring.metrics import MetricLog
from mtrl.training.off_policy import OffPolicyTrainer
from tests.support.damage import damages, flip
from tests.support.tiny_runs import TINY, files

OPTIONS = [
    *TINY, "steps=12", "training.learning_starts=4", "training.checkpoint_every=6", "training.log_every=4",
    "training.final_episodes=1", "benchmark.horizon=8", "benchmark.num_tasks=2", "surgery=pcgrad",
    "weighting=auto_lambda", "diagnostics=[triad,transference]", "experiment=x",
]  # fmt: skip
RUN, STUDY = "runs/toy/x/seed_1", "study"
KEPT = f"{STUDY}/x/seed_1"
TRAIN = ["train", *OPTIONS]
EXTEND = ["train", *OPTIONS, "steps=14"]
EVALUATE = ["evaluate", RUN, "--episodes", "1", "--json"]
PLOTS = [
    ["plot", RUN, "--kind", kind] for kind in ("curves", "conflicts", "lambdas", "triad", "affinity", "relationships")
]
GROUP = ["group", RUN, "--groups", "1", "--output", "groups"]
PAGE, SHOW = ["report", RUN], ["train", "--config", f"{RUN}/config.yaml", "--show"]
REPORT, CHECK = ["study", STUDY, "--report"], ["study", STUDY, "--check"]

READERS: dict[str, list[list[str]]] = {
    f"{RUN}/config.yaml": [TRAIN, EXTEND, EVALUATE, *PLOTS, GROUP, PAGE, SHOW],
    f"{RUN}/provenance.json": [EXTEND, PAGE],
    f"{RUN}/metrics.jsonl": [EXTEND, *PLOTS[:4], PAGE],
    f"{RUN}/result.json": [TRAIN, EXTEND, PAGE],
    f"{RUN}/affinity.json": [PLOTS[4], GROUP],
    f"{RUN}/checkpoints/step_12/state.pt": [EXTEND, EVALUATE],
    f"{RUN}/checkpoints/step_12/replay.pt": [EXTEND, EVALUATE],
    f"{RUN}/checkpoints/step_12/block_0_12.pt": [EXTEND, EVALUATE],
    f"{RUN}/checkpoints": [EXTEND, EVALUATE],
    f"{RUN}/evaluations": [EXTEND, EVALUATE],
    f"{RUN}/tensorboard": [EXTEND],
    f"{RUN}/.lock": [TRAIN, EXTEND],
    f"{STUDY}/study.yaml": [REPORT, CHECK],
    f"{KEPT}/result.json": [REPORT, CHECK],
    f"{KEPT}/metrics.jsonl": [REPORT],
    f"{KEPT}/config.yaml": [REPORT, CHECK],
    f"{KEPT}/policy.pt": [CHECK],
}
"""The files of a run, and of what a study keeps of one, with the commands that read them."""


def call(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(arguments)
    return code, out.getvalue(), err.getvalue()


class Place:
    """The working folder with the run, which is put back as it was after every example."""

    def __init__(self) -> None:
        paths = [path for root in ("runs", STUDY) for path in Path(root).rglob("*")]
        self.folders = [path for path in paths if path.is_dir()]
        self.files = {path: path.read_bytes() for path in paths if path.is_file()}
        self.extended = self.outcome(EXTEND)
        self.restore()
        self.evaluated = self.outcome(EVALUATE)
        self.restore()

    def restore(self) -> None:
        for root in ("runs", STUDY, "groups"):
            shutil.rmtree(root, ignore_errors=True)
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        for path, content in self.files.items():
            path.write_bytes(content)

    def outcome(self, command: list[str]) -> Any:
        """What a command gives, which must never change silently."""
        code, out, _ = call(command)
        assert code == 0
        return self.numbers(command, out)

    @staticmethod
    def numbers(command: list[str], out: str) -> Any:
        facts = json.loads(Path(RUN, "result.json").read_text() if command is EXTEND else out)
        return facts["tasks"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        found = provenance.collect()
        patch.setattr(provenance, "collect", lambda: found)  # it starts git
        assert call(TRAIN)[0] == 0
        Path(KEPT).mkdir(parents=True)
        for name in ("config.yaml", "metrics.jsonl", "result.json", "provenance.json", "policy.pt"):
            shutil.copyfile(f"{RUN}/{name}", f"{KEPT}/{name}")
        contents = {
            "title": "x",
            "runs": {"x": OPTIONS[:-1]},
            "seeds": [1],
            "equal": "steps_total",
            "lines": {"y": 0.5},
        }
        Path(STUDY, "study.yaml").write_text(yaml.safe_dump(contents))
        yield Place()


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def assert_in_one_line(command: list[str], place: Place) -> None:
    code, out, err = call(command)
    assert code in (0, 2), err
    lines = [line for line in err.splitlines() if line.startswith("mtrl: ")]
    if code == 2:
        assert err.endswith("\n") and err.splitlines()[-1] in lines and "Traceback" not in err
    elif command is EXTEND:  # also from an earlier checkpoint
        assert place.numbers(command, out) == place.extended
    elif command is EVALUATE and not lines:
        assert place.numbers(command, out) == place.evaluated


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [10, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_damaged_file_gives_a_right_result_or_one_line(
    name: str, count: int, place: Place, malformed: Callable[[], None]
) -> None:
    path = Path(name)
    content = place.files.get(path)

    @seed(count)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.sampled_from(READERS[name]), damages(path.name, content))
    def check(command: list[str], damage: Callable[[Path], None]) -> None:
        damage(path)
        malformed()
        try:
            assert_in_one_line(command, place)
            if path.name in ("config.yaml", "state.pt", "policy.pt"):
                load_policy(path)
            assert set(os.listdir()) <= {"runs", STUDY, "groups"}
        finally:
            place.restore()

    check()


def load_policy(path: Path) -> None:
    try:
        with redirect_stderr(io.StringIO()):
            mtrl.load_policy(KEPT if path.is_relative_to(STUDY) else RUN)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.fixture
def run(place: Place) -> Iterator[Path]:
    yield Path(RUN)
    place.restore()


@pytest.mark.parametrize(
    "change", [lambda found: found.pop("mean_success"), lambda found: found.update(mean_success=None)]
)
def test_a_check_needs_the_mean_score_that_was_kept(
    change: Callable[[dict[str, Any]], Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(Path(KEPT, "result.json").read_text())
    change(found)
    Path(KEPT, "result.json").write_text(json.dumps(found))
    code, _, err = call(CHECK)
    assert code == 2 and "`mean_success`" in err.splitlines()[-1] and "a number" in err.splitlines()[-1]


@pytest.mark.parametrize("file", ["state.pt", "replay.pt", "block_0_12.pt"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_the_checkpoint_before_a_damaged_one_is_taken(
    damage: Callable[[Path], None], file: str, run: Path, place: Place
) -> None:
    damage(run / "checkpoints/step_12" / file)
    code, out, err = call(EXTEND)
    assert code == 0 and "Going on from step 6" in err
    assert f"step_12/{file} should be whole" in err and "The previous checkpoint is taken." in err
    assert place.numbers(EXTEND, out) == place.extended
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["damaged-step_12", "step_12", "step_14"]
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(rows) and len(rows) == len(set(rows))


def no_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def only_damaged_ones(run: Path) -> None:
    for path in {path.stat().st_ino: path for path in run.glob("checkpoints/*/replay.pt")}.values():
        flip(path)  # once, also where two checkpoints have one file


def a_damaged_record(run: Path) -> None:
    (run / "provenance.json").write_text("")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_checkpoints, "should be a run with a checkpoint to go on from (put it back, or start another run"),
        (only_damaged_ones, "No earlier checkpoint is whole: put one back, or start another run."),
        (a_damaged_record, "provenance.json should be a readable JSON file"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_and_stays_as_it_is(
    damage: Callable[[Path], None], message: str, run: Path
) -> None:
    damage(run)
    before = files(run)
    code, _, err = call(EXTEND)
    assert code == 2 and message in err and files(run) == before
    (run / "result.json").unlink()
    assert call(TRAIN)[0] == 2, "a run is not begun anew because a file is missing"


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints.os, "listdir", refuse)
    before = files(run)
    for command in (EXTEND, EVALUATE):
        code, _, err = call(command)
        assert code == 2 and "checkpoints should be a folder that can be read. Found 'Permission denied'" in err
    assert files(run) == before


def test_an_extension_that_fails_on_a_full_disk_leaves_the_run_finished(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, config: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = {name: (run / name).read_bytes() for name in ("result.json", "config.yaml", "metrics.jsonl")}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_write_config", full)
        code, _, err = call(EXTEND)
    assert code == 2 and "No space left on device" in err and err.count("\n") == 1
    assert before == {name: (run / name).read_bytes() for name in before}
    assert call(TRAIN)[0] == 0


def test_a_signal_loses_no_row_and_no_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in a step after which a row and an evaluation are due."""
    options = [*OPTIONS, "training.evaluate_every=4", "training.evaluation_episodes=1"]
    assert call(["train", *options, "experiment=whole"])[0] == 0
    store = OffPolicyTrainer._store

    def interrupted(trainer: OffPolicyTrainer, *arguments: Any) -> None:
        if trainer.step == 7:
            signal.raise_signal(signal.SIGTERM)
        store(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OffPolicyTrainer, "_store", interrupted)
        assert call(["train", *options, "experiment=parts"])[0] == 130
    assert call(["train", *options, "experiment=parts"])[0] == 0
    whole, parts = (Path("runs/toy", name, "seed_1") for name in ("whole", "parts"))
    lines = [(p / "metrics.jsonl").read_text().splitlines() for p in (whole, parts)]
    steps = [[json.loads(line)["step"] for line in found] for found in lines]
    assert steps[0] == steps[1] == [4, 4, 8, 8, 12, 12, 12]
    names = [sorted(file.name for file in (p / "evaluations").iterdir()) for p in (whole, parts)]
    assert names[0] == names[1]


def at_step_7(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    store = OffPolicyTrainer._store

    def _store(trainer: OffPolicyTrainer, *arguments: Any) -> None:
        if trainer.step == 7:
            happen()
        store(trainer, *arguments)

    monkeypatch.setattr(OffPolicyTrainer, "_store", _store)


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


FAULTS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "the run is gone": lambda _, folder: shutil.rmtree(folder),
    "tensorboard is gone": lambda _, folder: shutil.rmtree(folder / "tensorboard"),
    "evaluations are gone": lambda _, folder: shutil.rmtree(folder / "evaluations"),
    "checkpoints are gone": lambda _, folder: shutil.rmtree(folder / "checkpoints"),
    "no room for a row": lambda patch, _: patch.setattr(MetricLog, "write", full),
    "no room for an evaluation": lambda patch, _: patch.setattr(files_module.os, "fsync", full),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_in_training_ends_in_one_line_and_a_run_that_goes_on(
    fault: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *OPTIONS, "training.evaluate_every=4", "training.evaluation_episodes=1", "experiment=y"]
    folder = run.parent.parent / "y/seed_1"
    with monkeypatch.context() as patch:
        at_step_7(patch, lambda: FAULTS[fault](patch, folder))
        code, _, err = call(command)
    assert code in (0, 2) and "Traceback" not in err and "Exception" not in err
    if "room" in fault:
        assert code == 2 and err.splitlines()[-1].endswith("Found No space left on device.")
    assert call(command)[0] == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 4, 8, 8, 12, 12, 12]


def test_an_evaluation_without_room_is_shown_and_not_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module.os, "fsync", full)
    code, out, err = call(EVALUATE)
    assert code == 0 and json.loads(out)["tasks"] and "is not kept in" in err and err.count("\n") == 1
