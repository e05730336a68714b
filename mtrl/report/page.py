"""The page as a file: its place, and what it may overwrite.

`page.html` is the template. It escapes everything that it is given, and the page's security policy lets a browser run
only `page.js`. So the text in a run's files is shown, and never run.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtrl import __version__
from mtrl.core.errors import expected
from mtrl.experiment.pictures import place
from mtrl.experiment.runs import Run, brief, by_experiment, find_runs
from mtrl.monitoring.files import write_atomic
from mtrl.report import contents

NAME = "report.html"
_HERE = Path(__file__).parent
_MARK = '<meta name="generator" content="mtrl report">'
"""The mark by which a page is recognised as ours."""


def write(paths: Sequence[Path], output: Path | None = None, title: str = "") -> Path:
    """Write the report of runs, or of all runs in folders. Returns its path.

    Args:
        output: the file; by default, report.html in the folder that contains all runs.

    Raises:
        UserError: there is no run, one cannot be read, runs are of several benchmarks, or the file is not a report of
            ours, or cannot be written.
    """
    runs = find_runs(paths, with_metrics=True)
    target = output or _place(paths, runs)
    _check(target)
    text = render(runs, target, title)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text)
    except OSError as error:
        raise expected(f"Report {target}", "in a place that can be written", error.strerror) from error
    return target


def render(runs: Sequence[Run], target: Path, title: str = "") -> str:
    """The page. Its links are relative to the folder of `target`."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["brief"] = brief
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    page: dict[str, Any] = {
        "mark": Markup(_MARK),
        "version": __version__,
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    page |= contents.of(by_experiment(runs), target, title)
    return environment.get_template("page.html").render(page)


def _place(paths: Sequence[Path], runs: Sequence[Run]) -> Path:
    """The default path: in the run, or in the folder around all paths, unless that contains the working folder."""
    if len(runs) == 1:
        return place(runs[0].folder.path, NAME)
    if len(paths) == 1:
        return place(paths[0], NAME)
    common = Path(os.path.commonpath([path.resolve() for path in paths]))
    return Path(NAME) if Path.cwd().is_relative_to(common) else place(Path(os.path.relpath(common)), NAME)


def _check(target: Path) -> None:
    """Refuse to overwrite anything but a report."""
    if target.is_dir():
        raise expected(f"Report {target}", "a file", "a folder")
    if target.exists():
        with open(target, encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(2000):
                raise expected(f"Report {target}", "a new file, or a report to write anew", "another file")
