"""Fixtures that the tests of several parts share."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtrl.core.memory import peak_bytes
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A shell that runs the tests in the background, or nohup, may have left these signals ignored. What the tests start
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

with contextlib.suppress(ImportError):  # not all tests need it
    from hypothesis import HealthCheck, settings

    # The same examples in every run, and no test fails for the time that it takes: a machine may stop it for seconds.
    # `--hypothesis-profile=default` looks for other examples.
    no_hurry: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("repeatable", derandomize=True, **no_hurry)
    settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test and its fixtures draw numbers of their own, whichever tests ran before in the same process."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


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
    """To be called for each malformed input that a test generates. The report of the tests ends with their number."""
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
