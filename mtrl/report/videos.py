"""The videos of runs: small ones are put into the page, and larger ones are linked."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mtrl.core.errors import expected
from mtrl.experiment.runs import Run

_ONE, _ALL = 2_000_000, 8_000_000
"""The most bytes of one video, and of all videos together, that are put into the page."""


def of(named: Mapping[str, Run], target: Path) -> list[dict[str, Any]]:
    """The videos of all runs: `name`, `megabytes`, and `data` (base64) or a `link` relative to the folder of `target`.

    Raises:
        UserError: a video cannot be read.
    """
    found, room = [], _ALL
    for name, run in named.items():
        for file in sorted(run.folder.videos.glob("*.mp4")):
            if not file.is_file() or not file.resolve().is_relative_to(run.path):
                continue  # in a downloaded folder, a link may point to any file on this machine
            size = file.stat().st_size
            video: dict[str, Any] = {"name": f"{name}, {file.name}", "data": None, "megabytes": size / 1e6}
            if size <= min(_ONE, room):
                room -= size
                video["data"] = _encoded(file)
            else:
                video["link"] = f"./{quote(os.path.relpath(file.resolve(), target.resolve().parent))}"
            found.append(video)
    return found


def _encoded(file: Path) -> str:
    try:
        return base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise expected(f"Video {file}", "readable", error.strerror) from error
