"""Draw the README's pictures: results/mt10/comparison.png, and a screenshot of the report of the same runs.

    make pictures

Needs the extra `statistics`, and Chromium for the screenshot (on Debian: apt-get install chromium). Exit code 2, with
the curve drawn, where there is none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from mtrl import cli

ROOT = Path(__file__).resolve().parents[1]
STUDY, SCREENSHOT = ROOT / "results/mt10", ROOT / "docs/pictures/report.png"
TITLE = "MT10 on two CPU cores"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 1000


def browser() -> str | None:
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def screenshot(page: Path, picture: Path, program: str) -> None:
    """The results and curves of a report, at desktop width, without what was run; its network is cut."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace('<section id="what">', '<section id="what" hidden>'), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        flags = [f"--user-data-dir={profile}", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--proxy-server=127.0.0.1:9", "--no-first-run", "--virtual-time-budget=5000"]
        shot = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={Path(profile) / 'page.png'}", page.as_uri()]
        subprocess.run([program, *flags, *shot], check=True, capture_output=True, timeout=120)
        with Image.open(Path(profile) / "page.png") as image:
            image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


def main() -> int:
    if (code := cli.main(["study", str(STUDY), "--report"])) != 0:
        return code
    if (program := browser()) is None:
        print(
            f"The screenshot of a report needs Chromium (on Debian: apt-get install chromium): none of "
            f"{', '.join(BROWSERS)} is on the PATH. {SCREENSHOT} is as it was.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder).resolve() / "report.html"
        if (code := cli.main(["report", str(STUDY / "quick"), "--output", str(page), "--title", TITLE])) != 0:
            return code
        screenshot(page, SCREENSHOT, program)
    print(f"Written: {STUDY / 'comparison.png'} and {SCREENSHOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
