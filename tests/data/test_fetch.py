"""Downloads, from a folder that stands for the server."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

import pytest

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.data import fetch
from tests.support.image_files import archive


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, md5: str | None = None) -> None:
    """Let `cifar10` come from a file of this content."""
    folder.mkdir()
    path = folder / "cifar.tar.gz"
    path.write_bytes(content)
    source = fetch.Source(path.as_uri(), md5 or hashlib.md5(content).hexdigest())
    monkeypatch.setitem(fetch.SOURCES, "cifar10", (source,))


def test_an_archive_is_verified_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path / "server", monkeypatch, archive({"cifar-10-batches-py/test_batch": b"abc"}))
    shown: list[tuple[int, int]] = []
    paths = fetch.fetch("cifar10", tmp_path / "data", lambda name: lambda done, total: shown.append((done, total)))
    assert paths == [tmp_path / "data" / "cifar.tar.gz"]
    assert (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").read_bytes() == b"abc"
    assert shown[-1][0] == shown[-1][1] > 0


def test_a_whole_file_is_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path / "server", monkeypatch, archive({"a": b"abc"}))
    fetch.fetch("cifar10", tmp_path / "data")
    (tmp_path / "server" / "cifar.tar.gz").unlink()
    fetch.fetch("cifar10", tmp_path / "data")


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path / "server", monkeypatch, archive({"a": b"abc"}), md5="0" * 32)
    with pytest.raises(UserError, match="of MD5 0000") as caught:
        fetch.fetch("cifar10", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_no_connection_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = fetch.Source((tmp_path / "nowhere.tar.gz").as_uri(), "0" * 32)
    monkeypatch.setitem(fetch.SOURCES, "cifar10", (absent,))
    with pytest.raises(UserError, match=r"nowhere\.tar\.gz to \S+ should succeed"):
        fetch.fetch("cifar10", tmp_path / "data" / "further")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [http.client.IncompleteRead(b"", 9), ValueError("a length that is no number")])
def test_an_answer_that_breaks_off_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(UserError, match="should succeed") as caught:
        fetch.fetch("mnist", tmp_path / "data")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_archives_cannot_write_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path / "server", monkeypatch, archive({"../outside": b"abc"}))
    with pytest.raises(UserError, match="can be unpacked"):
        fetch.fetch("cifar10", tmp_path / "data")
    assert not (tmp_path / "outside").exists()


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cifar10, cifar100, mnist, svhn"):
        fetch.fetch("imagenet", tmp_path)


def test_published_checksums_have_their_form() -> None:
    sources = [source for group in fetch.SOURCES.values() for source in group]
    assert all(len(s.md5) == 32 and set(s.md5) <= set("0123456789abcdef") for s in sources)
    assert len({s.md5 for s in sources}) == len(sources)


def test_the_command_ends_in_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "fetch", "imagenet", "--root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mtrl: The data set to fetch should be one of") and message.count("\n") == 1
