"""The pictures of a report: small single panels as SVG in the page's colours, without legends and titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtrl.monitoring.curves import curves
from mtrl.monitoring.drawing import (
    COLOURS,
    STEPS,
    FloatArray,
    Row,
    look,
    new_figure,
    percent_axis,
    steps_axis,
    style,
    svg,
)
from mtrl.monitoring.plots import compare_panel
from mtrl.monitoring.plots_methods import DASHES, LINES, matrices, task_rows
from mtrl.monitoring.statistics import Band, is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning(
    experiments: Mapping[str, Sequence[Sequence[Row]]], metric: str, x_name: str, places: Sequence[int]
) -> str:
    """Learning curves of experiments {label: one list of rows per seed}; see `plots.compare_runs`.

    places: the number of each experiment's colour.
    """
    figure, panel = _panel()
    compare_panel(panel, experiments, metric, (-0.03, 1.03), places)
    panel.set_xlabel(x_name, fontsize=8.5)
    return svg(figure)


def profiles(bands: Mapping[int, Band], thresholds: FloatArray, metric: str) -> str:
    """Performance profiles. bands: {number of a colour: the shares (K,) of scores above each of K thresholds}."""
    figure, panel = _panel()
    for place, band in bands.items():
        panel.step(thresholds, band.point, where="post", **look(place), linewidth=2.0)
        if np.isfinite(band.low).all():
            colour = look(place)["color"]
            panel.fill_between(thresholds, band.low, band.high, step="post", color=colour, alpha=0.18, linewidth=0)
    style(panel, "")
    panel.set_ylim(-0.03, 1.03)
    percent_axis(panel)
    if is_share(metric):
        panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panel.set_xlabel(f"{metric} τ", fontsize=8.5)
    return svg(figure)


def pairs(runs: Sequence[tuple[int, Sequence[Row]]], metric: str, limits: tuple[float, float]) -> str:
    """A line for each run: a number logged as `metric`, or the mean over pairs of tasks of a matrix (T, T).

    Args:
        runs: (number of a colour, rows).
        limits: the range of the y axis, which is in per cent if it begins at −0.5 or above.
    """
    figure, panel = _panel()
    for place, rows in runs:
        steps, found = matrices(rows, metric)
        if found.ndim == 3:
            found = found[:, *np.triu_indices(found.shape[-1], 1)].mean(1)
        panel.plot(steps, found, **look(place), linewidth=1.6)
    _finish(panel)
    panel.set_ylim(*limits)
    if limits[0] >= -0.5:
        percent_axis(panel)
    return svg(figure)


def weights(rows: Sequence[Row], tasks: Sequence[str], metric: str) -> str:
    """The tasks' weights of one run: lines with the looks of `task_looks`, or rows of colours if there are many."""
    steps, values = curves(rows, tasks, metric)
    if len(tasks) > LINES:
        figure = new_figure(4.4, 1.0 + 0.11 * len(tasks), "")
        task_rows(figure.subplots(), steps, values, tasks, "")
        return svg(figure)
    figure, panel = _panel()
    for row, (place, dash) in zip(values, task_looks(len(tasks)), strict=True):
        panel.plot(steps, row, color=COLOURS[place], linestyle=DASHES[dash], linewidth=1.4)
    _finish(panel)
    return svg(figure)


def task_looks(number: int) -> list[tuple[int, int]]:
    """The numbers of colour and dash for each of `number` lines; none if there are too many for lines."""
    if number > LINES:
        return []
    return [(k % len(COLOURS), k // len(COLOURS) % len(DASHES)) for k in range(number)]


def sparkline(curves: Sequence[tuple[int, FloatArray, FloatArray]], limits: tuple[float, float]) -> str:
    """Curves without axes in a box of 100 by 24. Each curve is (number of a colour, x (K,), y (K,)).

    limits: the values of y at the bottom and at the top.
    """
    last = max(float(x[-1]) for _, x, _ in curves) or 1.0
    low = limits[0]
    high = max(limits[1], low + 1e-9 * max(1.0, abs(low)))
    lines = []
    for place, x, y in curves:
        height = 22.0 - 20.0 * (np.clip(y, low, high) - low) / (high - low)
        points = " ".join(f"{100 * a / last:.1f},{b:.1f}" for a, b in zip(x, height, strict=True))
        dashes = "" if place < len(COLOURS) else ";stroke-dasharray:3 2"
        lines.append(f'<polyline points="{points}" style="stroke:var(--c{place % len(COLOURS)}){dashes}"/>')
    return f'<svg viewBox="0 0 100 24" preserveAspectRatio="none">{"".join(lines)}</svg>'


def _panel() -> tuple[Figure, Axes]:
    """A figure with fixed margins, because measuring them takes longer than drawing."""
    figure = new_figure(4.4, 2.9, "", layout=None)
    return figure, figure.add_axes((0.115, 0.165, 0.87, 0.81))


def _finish(panel: Axes) -> None:
    style(panel, "")
    steps_axis(panel)
    panel.set_xlabel(STEPS, fontsize=8.5)
