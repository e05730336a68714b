"""Draw the pictures of README and docs/: results/mt10/comparison.png, cluttered tables, screenshots in docs/pictures.

    make pictures

Needs the extras `dev`, `docs` and `statistics`, and Chromium with its driver for the screenshots (on Debian: apt-get
install chromium chromium-driver). Without these two, only the curves and the tables are drawn; the exit code is 2.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtrl import cli
from mtrl.envs.clutter.scene import DOMAINS, Clutter
from mtrl.envs.keyframes.cameras import Renderer
from mtrl.experiment.config import restore, told_apart
from mtrl.experiment.runs import find_runs
from mtrl.monitoring.board import Board, Watch

ROOT = Path(__file__).resolve().parents[1]
STUDY, METHODS, PICTURES = ROOT / "results/mt10", ROOT / "results/pushing", ROOT / "docs/pictures"
TITLE = "MT10 on two CPU cores"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
WIDTH, HEIGHT, COLOURS = 1280, 1000, 64
PATIENCE = 300
"""The most seconds to wait until a page is ready."""
STARTS = 3
"""How often a browser's start is tried."""
SITE_PAGE = "methods/surgery.html"
_DEEP = """
const deep = (root, wanted, found = []) => {  // TensorBoard's parts are in shadow roots
    for (const part of root.querySelectorAll("*")) {
        if (part.matches(wanted)) found.push(part);
        if (part.shadowRoot) deep(part.shadowRoot, wanted, found);
    }
    return found;
};
"""
_CHARTS = "return deep(document, 'vz-line-chart2').length"
_TABLE = """
const seen = cell => cell.getBoundingClientRect().height > 0;
const cells = deep(document, "vaadin-grid-cell-content").filter(seen).map(cell => cell.textContent.trim());
return cells.includes("pushing/mint") ? cells.join() : "";
"""
OPTIONS = ("network.kind", "surgery.kind", "weighting.kind")
"""Options in TensorBoard's table of experiments. There is room for only a few."""
BOARDS = [
    (STUDY / "quick/seed_5", "tensorboard.png", "custom_scalars", ".*/", _CHARTS, 830),
    (METHODS, "hparams.png", "hparams", "evaluation/mean_success$", _TABLE, 480),
]
"""(runs, picture, tab, its metrics, JavaScript that returns what the tab shows, height)"""


def programs() -> list[str] | None:
    """The browser and its driver, if there are both."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS]
    return [path for path in found if path] if all(found) else None


@contextlib.contextmanager
def browser(program: str, driver: str) -> Iterator[Any]:
    """Chromium without a window; it reaches this machine and no network."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{word}")
    options.add_argument("--proxy-server=127.0.0.1:9")
    opened = started(options, driver)
    shape = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    opened.set_script_timeout(PATIENCE)
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    try:
        yield opened
    finally:
        opened.quit()


def started(options: Any, driver: str) -> Any:
    """A browser, started in several attempts. On a busy machine one can fail: the driver is not ready after half a
    minute, another program takes its port, or the browser is not ready after a minute."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    def start() -> Any:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    for _ in range(STARTS - 1):
        with contextlib.suppress(WebDriverException):
            return start()
    return start()


def screenshot(page: Any, picture: Path, height: int = HEIGHT) -> None:
    """Save the upper `height` pixels of what the browser shows."""
    with Image.open(io.BytesIO(page.get_screenshot_as_png())) as image:
        top = image.convert("RGB").crop((0, 0, WIDTH, height))
        top.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def wait(page: Any, shown: str) -> None:
    """Wait until `shown` returns the same value in five consecutive seconds.

    `shown` is JavaScript that returns what the page shows, or something empty if the page is not ready.

    Raises:
        TimeoutError: it is not ready in time.
    """
    said = [None]
    for _ in range(PATIENCE):
        said = [*said[-4:], page.execute_script(shown)]
        if said[-1] and said == [said[-1]] * 5:
            return
        time.sleep(1)
    raise TimeoutError(f"{page.current_url} should be ready after {PATIENCE} seconds.")


def report(page: Any, folder: Path, picture: Path) -> None:
    """A screenshot of a report's results and curves, without its section "What was run"."""
    file = folder / "report.html"
    if cli.main(["report", str(STUDY / "quick"), "--output", str(file), "--title", TITLE]) != 0:
        raise SystemExit("The report of the screenshot should be written.")
    results(page, file, picture)


def tables(picture: Path, size: int = 96, zoom: int = 2) -> None:
    """The first test table of each domain of benchmark=clutter, and the mask of one object on it."""
    parts = []
    with Renderer(size) as renderer:
        for domain in DOMAINS:
            clutter = Clutter(domain, size)
            clutter.begin(0, 1, 0)
            view = clutter.view(renderer)
            parts += [view.rgb, np.where(view.objects[..., None] == 0, np.uint8(255), view.rgb // 4)]
    found = Image.fromarray(np.concatenate(parts, 1))
    found.resize((zoom * found.width, zoom * found.height), Image.Resampling.NEAREST).save(picture)


def results(page: Any, file: Path, picture: Path) -> None:
    page.get(file.as_uri())
    page.execute_script("document.querySelector('#what').hidden = true")
    screenshot(page, picture)


def watched(runs: list[Path], wanted: str) -> str:
    """The address of a TensorBoard that shows the wanted metrics of kept runs.

    The metrics are written to `runs` in the working folder, as if the runs had just trained.
    """
    for run in find_runs(runs):
        config = restore(run.folder.config)
        names = Path(config.benchmark.name, *run.path.parts[-2:])
        options = {name: value for name, value in told_apart(config).items() if name in OPTIONS}
        board = Board("runs" / names, 0, options, str(names.parent))
        for row in run.rows:
            values = {name: value for name, value in row.items() if isinstance(value, float) and re.match(wanted, name)}
            board.scalars(row["step"], values, [name.split("/")[2] for name in values if "/success/" in name])
        board.close()
    return Watch(Path("runs")).address


def tensorboard(page: Any, runs: Path, picture: Path, tab: str, wanted: str, shown: str, height: int) -> None:
    page.get(f"{watched([runs], wanted)}#{tab}")
    wait(page, f"{_DEEP} {shown}")
    screenshot(page, picture, height)


def site(page: Any, folder: Path, picture: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder / "site")]
    subprocess.run(words, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    page.get((folder / "site" / SITE_PAGE).as_uri())
    screenshot(page, picture)


def main() -> int:
    if (code := cli.main(["study", str(STUDY), "--report"])) != 0:
        return code
    tables(PICTURES / "clutter.png")
    if (found := programs()) is None:
        print(
            "Screenshots need Chromium and its driver (on Debian: apt-get install chromium chromium-driver): put "
            f"{' and '.join(map(' or '.join, PROGRAMS))} on the PATH. Screenshots in {PICTURES} are as they were.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), browser(*found) as page:
        report(page, Path(folder), PICTURES / "report.png")
        site(page, Path(folder), PICTURES / "site.png")
    for runs, picture, tab, wanted, shown, height in BOARDS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), browser(*found) as page:
            tensorboard(page, runs, PICTURES / picture, tab, wanted, shown, height)
    print(f"Written: {STUDY / 'comparison.png'}, and screenshots in {PICTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
