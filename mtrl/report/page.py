"""Renders the page and writes it to a file, which may replace only an earlier report.

`page.html` is the template. It escapes everything but our own style, script and pictures, and the page's security
policy lets a browser run only `page.js`. So text from a run's files is shown, and never run.
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
"""The mark by which a file is recognised as a report."""


def write(paths: Sequence[Path], output: Path | None = None, title: str = "") -> Path:
    """Write the report of runs, and return its path.

    Args:
        paths: runs, or folders that contain runs.
        output: the file. By default, it is report.html in the only run, else in the only path, else in the folder that
            contains all `paths`. It is in the working folder instead if that folder cannot be written, or if there are
            several `paths` and the folder that contains them also contains the working folder.
        title: the page's title; made from the benchmark and the methods if empty.

    Raises:
        UserError: there is no run; a run cannot be read; runs are of several benchmarks; the file exists and is not a
            report; or it cannot be written.
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
    """The page as HTML. Its links are relative to the folder of `target`. Raises UserError as `write` does."""
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
    """The default path, as `write` describes it."""
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
                raise expected(f"Report {target}", "a new file, or an earlier report to overwrite", "another file")
