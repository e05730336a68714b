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
    if len(folders) == 1:
        tasks = SUITES.build(restore(folders[0].config).benchmark).tasks
        return plots.learning_curves(
            rows[0], list(tasks), output or folders[0].path / "learning_curves.png", success=_SUCCESS, returns=_RETURN
        )
    groups: dict[str, list[Any]] = {}
    for folder, run in zip(folders, rows, strict=True):
        groups.setdefault(folder.path.resolve().parent.name, []).append(run)
    return plots.compare_runs(groups, output or Path("comparison.png"), success=_SUCCESS)
