"""Fixtures of more than one part."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A shell that runs the tests in the background, or nohup, may have left these ignored, also for what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
