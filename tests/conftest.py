"""Fixtures of more than one part."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtrl.core.memory import peak_bytes
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A shell that runs the tests in the background, or nohup, may have left these ignored, also for what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def offscreen() -> str:
    """The backend that draws here. Tests that need one are skipped, and say so, where the system has no OpenGL."""
    try:
        return offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """File name -> the figure that was last saved under it, whose artists hold what the picture shows."""
    from matplotlib.figure import Figure

    figures: dict[str, Figure] = {}
    original = Figure.savefig

    def savefig(self: Figure, path: Any, **options: Any) -> None:
        original(self, path, **options)
        figures[Path(path).name] = self

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


MOST_MEMORY = 512 << 20
"""Bytes by which all the malformed inputs of a test may raise the process's peak."""


@pytest.fixture
def malformed(record_property: Callable[[str, object], None]) -> Iterator[Callable[[], None]]:
    """To be called for each malformed input that a test generates; how many there were ends the report of the tests."""
    calls: Counter[str] = Counter()
    before = peak_bytes()
    yield lambda: calls.update(["malformed"])
    record_property("malformed", calls.total())
    assert peak_bytes() - before < MOST_MEMORY


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "teardown":
            name = report.nodeid.partition("::")[0]
            counts[name] += sum(value for key, value in report.user_properties if key == "malformed")
    if counts.total():
        parts = ", ".join(f"{count} in {name}" for name, count in counts.items() if count)
        terminalreporter.write_line(f"Malformed inputs generated: {counts.total()} ({parts}).")
