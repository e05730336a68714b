"""A finished run that may not be written, such as another user's, can be used all the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mtrl
from mtrl import cli
from tests.support.tiny_runs import TINY, files, run_folder

NOBODY = 65534


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder whose finished run may not be written. Other users cannot read pytest's own folders."""
    place = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli.main(["train", *TINY]) == 0
        place.chmod(0o777)
        for path in (place / "runs", *(place / "runs").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield place
        for path in (place / "runs", *(place / "runs").rglob("*")):
            path.chmod(0o755)
    shutil.rmtree(place)


@pytest.fixture(autouse=True)
def ordinary_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Root may write everywhere, so under root the test runs as another user."""
    monkeypatch.chdir(place)
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_it_is_evaluated_and_said_that_nothing_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    before = files(Path("runs"))
    assert cli.main(["evaluate", str(run_folder()), "--episodes", "2", "--video"]) == 0
    captured = capsys.readouterr()
    assert "mean" in captured.out and "No video: " in captured.out
    assert "the evaluation is not kept" in captured.err and captured.err.count("\n") == 1
    assert files(Path("runs")) == before


@pytest.mark.parametrize("kind", ["curves", "conflicts"])
def test_it_is_drawn_elsewhere(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["plot", str(run_folder()), "--kind", kind])
    captured = capsys.readouterr()
    if kind == "curves":
        assert code == 0 and "learning_curves.png" in captured.out
        assert "is put into the working folder" in captured.err and Path("learning_curves.png").stat().st_size > 0
    else:
        assert code == 2 and "Traceback" not in captured.err


def test_its_policy_acts() -> None:
    policy = mtrl.load_policy(run_folder())
    assert policy.act(np.zeros(6), "turn-0").shape == (2,)


def test_training_it_says_that_it_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY, "steps=80", f"experiment={run_folder().parent.name}"]) == 2
    assert "should be writable" in capsys.readouterr().err
