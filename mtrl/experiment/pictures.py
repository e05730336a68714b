"""Pictures of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl.envs import SUITES
from mtrl.experiment.config import restore
from mtrl.monitoring import plots
from mtrl.monitoring.metrics import read_metrics
from mtrl.monitoring.run import RunFolder

_SUCCESS, _RETURN = "train/success", "train/return"


def plot_runs(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Draw one run's learning curves, or several experiments against each other, seeds together."""
    folders = [RunFolder.load(path) for path in paths]
    rows = [read_metrics(folder.metrics) for folder in folders]
    suite = SUITES.build(restore(folders[0].config).benchmark)
    if hasattr(suite, "panels"):
        return _plot_panels(suite, folders, rows, output)
    if len(folders) == 1:
        tasks = suite.tasks
        return plots.learning_curves(
            rows[0], list(tasks), output or folders[0].path / "learning_curves.png", success=_SUCCESS, returns=_RETURN
        )
    groups: dict[str, list[Any]] = {}
    for folder, run in zip(folders, rows, strict=True):
        groups.setdefault(folder.path.resolve().parent.name, []).append(run)
    return plots.compare_runs(groups, output or Path("comparison.png"), success=_SUCCESS)


def _plot_panels(suite: Any, folders: Sequence[RunFolder], rows: Sequence[Any], output: Path | None) -> Path:
    """The metrics that the suite names, every run a line."""
    alone = len(folders) == 1
    labels = [f"{folder.path.resolve().parent.name}, {folder.path.name.replace('_', ' ')}" for folder in folders]
    path = output or (folders[0].path / "learning_curves.png" if alone else Path("comparison.png"))
    return plots.compare_values(dict(zip(labels, rows, strict=True)), path, suite.panels, step_scale=suite.step_scale)
