"""A folder of made runs for all tests of reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_runs import HOSTILE, made_run


@pytest.fixture
def sweep(elsewhere: Path) -> Path:
    """The folder `sweep` with two methods of two seeds. Names and values of one try to break out of the text."""
    plain, hostile = Path("sweep/plain"), Path("sweep") / HOSTILE.replace("/", "∕")
    for seed in (1, 2):
        made_run(plain, seed, {"reach": 0.9, "push": 0.5, HOSTILE: 0.1 * seed})
        files = {"config": {"note": HOSTILE}, "provenance": {"command": ["mtrl", HOSTILE], "cpu": HOSTILE}}
        made_run(hostile, seed, {"reach": 0.3, "push": 0.7, HOSTILE: 0.0}, surgery="pcgrad", **files)
    (hostile / "seed_1/videos" / "a #1.mp4").write_bytes(b"small")
    (hostile / "seed_2/videos" / "rollout.mp4").write_bytes(bytes(3_000_000))
    return elsewhere / "sweep"
