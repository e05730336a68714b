"""`make pictures`: the curve is drawn first, and a machine without Chromium is told what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from scripts import pictures


def test_without_chromium_the_curve_is_drawn_and_the_screenshot_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []
    monkeypatch.setattr(pictures.cli, "main", lambda words: commands.append(words) or 0)
    monkeypatch.setenv("PATH", "")
    before = pictures.SCREENSHOT.read_bytes()
    assert pictures.main() == 2
    assert commands == [["study", str(pictures.STUDY), "--report"]]
    assert pictures.SCREENSHOT.read_bytes() == before
    assert "needs Chromium (on Debian: apt-get install chromium)" in capsys.readouterr().err


def test_a_page_is_photographed_without_its_first_section(tmp_path: Path) -> None:
    if (program := pictures.browser()) is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
    page = tmp_path / "page.html"
    colours = '<section id="what"><div style="background:#f00;height:1000px"></div></section>'
    page.write_text(f'<body style="margin:0;background:#00f">{colours}</body>', encoding="utf-8")
    pictures.screenshot(page, tmp_path / "page.png", program)
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (pictures.WIDTH, pictures.HEIGHT)
        assert image.convert("RGB").getcolors() == [(pictures.WIDTH * pictures.HEIGHT, (0, 0, 255))]
