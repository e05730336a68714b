"""`make pictures`: the curve is drawn first, and a machine without Chromium is told what is missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts import pictures


def test_without_chromium_the_curve_is_drawn_and_the_screenshots_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, drawn = [], []
    monkeypatch.setattr(pictures.cli, "main", lambda words: commands.append(words) or 0)
    monkeypatch.setattr(pictures, "tables", drawn.append)
    monkeypatch.setenv("PATH", "")
    before = {file: file.read_bytes() for file in pictures.PICTURES.iterdir()}
    assert pictures.main() == 2
    assert commands == [["study", str(pictures.STUDY), "--report"]] and drawn == [pictures.PICTURES / "clutter.png"]
    assert {file: file.read_bytes() for file in pictures.PICTURES.iterdir()} == before
    assert (
        "need Chromium and its driver (on Debian: apt-get install chromium chromium-driver)" in capsys.readouterr().err
    )


def test_tables_of_both_domains_are_drawn(tmp_path: Path, offscreen: str) -> None:
    pictures.tables(tmp_path / "clutter.png")
    with Image.open(tmp_path / "clutter.png") as drawn, Image.open(pictures.PICTURES / "clutter.png") as kept:
        assert drawn.size == kept.size and len(drawn.getcolors(drawn.width * drawn.height) or []) > 100


def test_every_picture_of_the_pages_is_one_that_is_made() -> None:
    made = {"report.png", "site.png", "clutter.png", *(picture for _, picture, *_ in pictures.BOARDS)}
    assert {file.name for file in pictures.PICTURES.glob("*.png")} == made
    assert all(file.stat().st_size < 200_000 for file in pictures.PICTURES.glob("*.png"))


def test_a_page_is_photographed_without_its_first_section(tmp_path: Path) -> None:
    if (found := pictures.programs()) is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium chromium-driver)")
    page = tmp_path / "page.html"
    colours = '<section id="what"><div style="background:#f00;height:1000px"></div></section>'
    page.write_text(f'<body style="margin:0;background:#00f">{colours}</body>', encoding="utf-8")
    with pictures.browser(*found) as browser:
        pictures.results(browser, page, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (pictures.WIDTH, pictures.HEIGHT)
        assert image.convert("RGB").getcolors() == [(pictures.WIDTH * pictures.HEIGHT, (0, 0, 255))]


@pytest.mark.parametrize("failures", [2, 3])
def test_a_browser_that_does_not_start_is_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    webdriver: Any = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed (the extra `dev`)")
    exceptions: Any = importlib.import_module("selenium.common.exceptions")
    begun: list[Any] = []

    def chrome(**options: Any) -> Any:
        begun.append(options)
        if len(begun) <= failures:
            raise exceptions.WebDriverException("Can not connect to the Service")
        return "a browser"

    monkeypatch.setattr(webdriver, "Chrome", chrome)
    if failures < pictures.STARTS:
        assert pictures.started("options", "driver") == "a browser"
    else:
        with pytest.raises(exceptions.WebDriverException):
            pictures.started("options", "driver")
    assert len(begun) == pictures.STARTS and all(options["options"] == "options" for options in begun)


def test_a_page_is_waited_for_until_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        current_url = "page"

        def __init__(self) -> None:
            self.said = ["", 1, 2, 2, "", 3, 3, 3, 3, 3, 4]

        def execute_script(self, _: str) -> Any:
            return self.said.pop(0)

    monkeypatch.setattr(pictures.time, "sleep", lambda _: None)
    pictures.wait(page := Page(), "")
    assert page.said == [4]
    monkeypatch.setattr(pictures, "PATIENCE", 1)
    with pytest.raises(TimeoutError, match="page should be ready"):
        pictures.wait(page, "")
