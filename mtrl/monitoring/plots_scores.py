"""A table of shares as a picture: what each method reaches on each task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mtrl.monitoring.drawing import INK, new_figure, save

_FAINT = "#9a9a9a"


def scores(
    shares: ArrayLike,
    tasks: Sequence[str],
    methods: Sequence[str],
    path: Path | str,
    *,
    title: str = "",
    controls: int = 0,
    uncounted: Collection[str] = (),
) -> Path:
    """Draw shares (T, M) in [0, 1] of T tasks and M methods: a row per task and one for their mean.

    Returns the file's path, as `save` does.

    Args:
        controls: the number of methods at the end that are set apart by a gap.
        uncounted: tasks whose names are grey. The mean includes these tasks too.

    Raises:
        ValueError: the shares have another shape.
        UserError: the picture cannot be written.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (len(tasks), len(methods)):
        raise ValueError(f"Shares should have shape {(len(tasks), len(methods))}. Found {values.shape}.")
    # An empty row and an empty column set the mean and the controls apart.
    rows = np.vstack([values, np.full((1, len(methods)), np.nan), values.mean(0, keepdims=True)])
    first = len(methods) - controls
    places = [place + (controls > 0 and place >= first) for place in range(len(methods))]
    grid = np.full((len(rows), places[-1] + 1), np.nan)
    grid[:, places] = rows
    width, height = 3.4 + 0.95 * grid.shape[1], 1.5 + 0.36 * len(grid)
    figure = new_figure(width, height, title)
    panel = figure.subplots()
    panel.imshow(grid, cmap="Blues", vmin=0.0, vmax=1.15, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else INK
            panel.text(column, row, f"{100 * value:.0f} %", ha="center", va="center", fontsize=9, color=colour)
    panel.set_xticks(places, methods, fontsize=9, rotation=20, ha="right", rotation_mode="anchor")
    panel.set_yticks([*range(len(tasks)), len(tasks) + 1], [*tasks, "mean"], fontsize=9)
    for label, task in zip(panel.get_yticklabels(), tasks, strict=False):
        label.set_color(_FAINT if task in uncounted else INK)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return save(figure, path)
