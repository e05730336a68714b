"""What a command prints may be lost; what it was started for is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from mtrl import cli
from tests.support.tiny_runs import TINY, run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe that nobody reads from any more, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as stream:
        yield stream


def test_a_run_goes_on_when_nobody_reads_its_output(unread: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    assert cli.main(["train", *TINY]) == 0
    assert (run_folder() / "result.json").exists()


def test_output_that_does_not_fit_the_disk_is_no_success(
    full: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    assert cli.main(["train", *TINY]) == 2
    assert (run_folder() / "result.json").exists(), "the run itself is whole"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mtrl: ") and "Found No space left on device (standard output)." in error


def test_messages_may_be_lost(full: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", full)
    assert cli.main(["list", "nonsense"]) == 2
    assert cli.main(["list", "networks"]) == 0


def test_characters_that_an_encoding_lacks_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "out", "w", encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["list", "weighting"]) == 0
    assert "\\u03bb" in (tmp_path / "out").read_text(encoding="latin-1"), "the λ of Auto-λ"
