"""Pictures of runs: learning curves, matrices between tasks, and comparisons of several runs."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.core.errors import UserError
from mtrl.monitoring.curves import by_minute, curves, stack
from mtrl.monitoring.drawing import (
    BLUE,
    INK,
    STEPS,
    FloatArray,
    Row,
    look,
    new_figure,
    percent_axis,
    save,
    steps_axis,
    style,
)
from mtrl.monitoring.statistics import interquartile_band, is_share, mean_band, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning_curves(
    rows: Sequence[Row],
    tasks: Sequence[str],
    path: Path | str,
    *,
    headline: str = "success",
    returns: str = "return",
    title: str = "",
    counted: Sequence[int] | None = None,
) -> Path:
    """Draw one run: above, the means of the headline metric and of the return; below, each task's headline metric.

    Args:
        rows: rows of `metrics.jsonl`. A metric is drawn from the rows that have it.
        headline: the prefix of the values `<headline>/<task>`.
        returns: the same for returns. That panel is left out if there are no such values, or they are the headline.
        counted: indexes of the tasks over which means are taken; all if not given.

    Raises:
        UserError: no row has the headline metric of every task, or the picture cannot be written.
    """
    steps, rates = curves(rows, tasks, headline)
    return_steps, values = curves(rows if returns != headline else [], tasks, returns, required=False)
    columns = min(len(tasks), 5 if len(tasks) <= 25 else 10)
    lines = math.ceil(len(tasks) / columns)
    width, height = max(9.0, 1.6 * columns), 4.1 + 1.35 * lines
    figure = new_figure(width, height, title, layout=None)
    sides = {"left": 0.6 / width, "right": 1 - 0.2 / width}
    above = {"top": 1 - 0.75 / height, "bottom": 1 - 3.3 / height, **sides}
    below = {"top": 1 - 4.15 / height, "bottom": 0.3 / height, "hspace": 0.4, "wspace": 0.1, **sides}
    means = figure.add_gridspec(1, 2 if return_steps.size else 1, **above).subplots(squeeze=False)[0]
    of_mean = list(range(len(tasks)) if counted is None else counted)
    heading = f"mean {headline.rpartition('/')[2]}: {shown(headline, _last(rates[of_mean]))}"
    _mean_panel(means[0], steps, rates[of_mean], heading)
    if is_share(headline):
        means[0].set_ylim(-0.03, 1.03)
        percent_axis(means[0])
    if return_steps.size:
        values = values[of_mean]
        _mean_panel(means[1], return_steps, values, f"mean return: {_last(values):.0f}")
    panels = figure.add_gridspec(lines, columns, **below).subplots(squeeze=False, sharex=True, sharey=True)
    _task_panels(list(panels.flat), steps, rates, tasks, headline, room=62.0 * width / columns)
    return save(figure, path)


def compare_runs(
    experiments: Mapping[str, Sequence[Sequence[Row]]],
    path: Path | str,
    *,
    headline: str = "success",
    title: str = "",
    steps_name: str = STEPS,
    limits: tuple[float, float] = (-0.03, 1.03),
    lines: Mapping[str, float] | None = None,
    means: bool = False,
) -> Path:
    """Draw several experiments: the interquartile mean over seeds and tasks, with a 95 % stratified-bootstrap band
    if an experiment has two seeds or more. If rows record the time, a second panel shows the same against that time.

    Args:
        experiments: `{label: one list of rows per seed}`; tasks are found in the rows.
        steps_name: the label of the first panel's x axis.
        limits: the range of the y axis, if the headline is a share.
        lines: {label: published value}, drawn as horizontal lines.
        means: draw means over seeds and tasks instead, which also count the tasks that fail.

    Raises:
        UserError: an experiment has no such values, or its seeds no steps in common, or the picture cannot be written.
    """
    timed = {label: [[*by_minute(rows)] for rows in seeds] for label, seeds in experiments.items()}
    both = [(experiments, steps_name)]
    with contextlib.suppress(UserError):  # raised if rows have no time, or the seeds no time in common
        for label, seeds in timed.items():
            stack(label, seeds, headline)
        both.append((timed, "minutes of training"))
    figure = new_figure(7.0 * len(both) + 1.0, 4.4, title)
    panels = figure.subplots(1, len(both), sharey=True, squeeze=False)[0]
    for panel, (chosen, name) in zip(panels, both, strict=True):
        compare_panel(panel, chosen, headline, limits, means=means)
        for value in (lines or {}).values():
            panel.axhline(value, color=INK, linewidth=0.9, linestyle=":")
        panel.set_xlabel(name)
    for label, value in (lines or {}).items():
        panels[0].text(1.0, value, f"{label}: {shown(headline, value)}", ha="right", va="top", fontsize=8, color=INK,
                       transform=panels[0].get_yaxis_transform())  # fmt: skip
    kind = "mean" if means else "interquartile mean"
    style(panels[0], f"{headline.rpartition('/')[2]}: {kind} over seeds and tasks, 95 % interval")
    panels[0].legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), frameon=False, ncols=2, fontsize=9)
    return save(figure, path)


def compare_panel(
    panel: Axes,
    experiments: Mapping[str, Sequence[Sequence[Row]]],
    headline: str,
    limits: tuple[float, float],
    places: Sequence[int] | None = None,
    means: bool = False,
) -> None:
    """Draw one panel of `compare_runs`. places: the numbers of the experiments' colours; 0, 1, ... if not given."""
    for number, (label, seeds) in zip(places or range(len(experiments)), experiments.items(), strict=True):
        steps, scores = stack(label, seeds, headline)
        band = mean_band(scores) if means else interquartile_band(scores)
        count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        panel.plot(steps, band.point, **look(number), linewidth=2.2, label=f"{label} ({count})")
        if len(seeds) > 1:
            colour = look(number)["color"]
            panel.fill_between(steps, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
    if is_share(headline):
        panel.set_ylim(*limits)
        percent_axis(panel)
    style(panel, "")
    steps_axis(panel)


def compare_values(
    runs: Mapping[str, Sequence[Row]], path: Path, panels: Sequence[tuple[str, str]], step_scale: float, title: str = ""
) -> Path:
    """Draw metrics of several runs, with a panel for each metric and a line for each run.

    Args:
        runs: {label: rows}. A run without a metric is left out of that panel. If a step has two values, as from an
            evaluation during training and the one at the end, the later one is drawn.
        panels: (metric, name). A metric whose name begins with "success" is shown in per cent.
        step_scale: the number of environment steps in one step of the rows.
    """
    columns = min(len(panels), 2)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(5.2 * columns, 3.2 * lines + 0.3 * math.ceil(len(runs) / 3), title)
    grid = figure.subplots(lines, columns, squeeze=False)
    for panel, (metric, name) in zip(grid.flat, panels, strict=False):
        for number, (label, rows) in enumerate(runs.items()):
            found = {row["step"] * step_scale: row[metric] for row in rows if row.get(metric) is not None}
            points = np.array(list(found.items()), float).reshape(-1, 2).T
            panel.plot(*points, **look(number), linewidth=1.8, label=label)  # without points, it is only in the legend
        style(panel, name)
        steps_axis(panel)
        panel.set_ylim(bottom=0.0)
        panel.set_xlabel("environment steps", fontsize=9)
        if name.startswith("success"):
            percent_axis(panel)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=3)
    return save(figure, path)


def matrix(
    array: ArrayLike, labels: Sequence[str], title: str, path: Path | str, *, limit: float | None = None
) -> Path:
    """Draw a matrix (T, T) between tasks, with zero in white, and with its values if T is at most 12.

    Args:
        limit: the value of the strongest colour; by default 1, or the largest magnitude if that is more.
    """
    return save(_matrix_figure(np.asarray(array, dtype=np.float64), labels, title, limit, values=True), path)


def matrix_image(
    array: ArrayLike, labels: Sequence[str], title: str, *, limit: float | None = None
) -> NDArray[np.uint8]:
    """The picture of `matrix` as pixels (H, W, 3) in [0, 255], small and without the values, for TensorBoard."""
    figure = _matrix_figure(np.asarray(array, dtype=np.float64), labels, title, limit, values=False)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(80)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def _mean_panel(panel: Axes, steps: FloatArray, values: FloatArray, title: str) -> None:
    """Draw every task as a faint line, and their mean as a bold one."""
    for row in values:
        panel.plot(steps, row, color=BLUE, alpha=0.22, linewidth=0.9)
    marker = "o" if len(steps) <= 30 else None
    panel.plot(steps, _mean(values), color=BLUE, linewidth=2.6, marker=marker, markersize=4)
    style(panel, title)
    steps_axis(panel)
    panel.set_xlabel(STEPS, fontsize=9)


def _mean(values: FloatArray) -> FloatArray:
    """(T, K) -> (K,): means over the tasks with known values; NaN where there are none."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _last(values: FloatArray) -> float:
    """The last known mean over tasks of (T, K); NaN if there is none."""
    mean = _mean(values)
    known = mean[np.isfinite(mean)]
    return float(known[-1]) if known.size else math.nan


def _task_panels(
    panels: list[Axes], steps: FloatArray, rates: FloatArray, tasks: Sequence[str], name: str, room: float
) -> None:
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    for panel, task, rate in zip(panels, tasks, rates, strict=False):
        _task_panel(panel, steps, rate, task, name, room)
    steps_axis(panels[0])


def _task_panel(panel: Axes, steps: FloatArray, rate: FloatArray, task: str, name: str, room: float) -> None:
    """Draw one task. Its name shrinks to fit `room` points. The last value is written below a high curve, or above a
    low one."""
    last = _last(rate[None])
    panel.fill_between(steps, 0.0, rate, color=BLUE, alpha=0.18, linewidth=0)
    panel.plot(steps, rate, color=BLUE, linewidth=1.6)
    if is_share(name):
        panel.set_ylim(0.0, 1.05)
        panel.set_yticks([0.0, 0.5, 1.0])
        percent_axis(panel)
    style(panel, "")
    panel.set_title(task, fontsize=min(8.5, 1.65 * room / len(task)), loc="left", color=INK, pad=3)
    low, high = panel.get_ylim()
    place = {"x": 0.96, "y": 0.08 if last >= (low + high) / 2 else 0.8, "transform": panel.transAxes}
    panel.text(s=shown(name, last), ha="right", fontsize=9, color=BLUE, fontweight="bold", **place)
    panel.tick_params(labelsize=6.5)


def _matrix_figure(array: FloatArray, labels: Sequence[str], title: str, limit: float | None, values: bool) -> Figure:
    size = len(labels)
    if array.shape != (size, size):
        raise ValueError(f"Matrix should have shape {(size, size)}, like its labels. Found {array.shape}.")
    largest = float(np.nanmax(np.abs(array), initial=1.0))
    scale = largest if limit is None else limit
    cell = 0.42 if size <= 12 else 0.24 if size <= 25 else 0.15
    font = 8.0 if size <= 25 else 6.5
    side, margin = size * cell, 0.25 + 0.008 * font * max(map(len, labels), default=0)
    width = side + margin + 0.9
    lines = textwrap.wrap(title, max(int(width / 0.1), 12))  # a letter of the title is about 0.1 inches wide
    height = max(side, 1.0) + margin + 0.3 + 0.2 * max(len(lines), 1)
    figure = new_figure(width, height, "\n".join(lines), layout=None)
    panel = figure.add_axes((margin / width, margin / height, side / width, side / height))
    drawn = panel.imshow(array, cmap="RdBu", vmin=-scale, vmax=scale, aspect="auto")
    panel.set_xticks(range(size), labels, rotation=90, fontsize=font)
    panel.set_yticks(range(size), labels, fontsize=font)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    bar = figure.add_axes(((margin + side + 0.12) / width, margin / height, 0.14 / width, side / height))
    legend = figure.colorbar(drawn, cax=bar, ticks=[-scale, 0.0, scale]).ax
    legend.set_yticks([-scale, 0.0, scale], [f"{tick:.2g}" for tick in (-scale, 0.0, scale)], fontsize=font)
    if values and size <= 12:
        for ((row, column), value), text in zip(np.ndenumerate(array), _short(array, scale), strict=True):
            colour = "white" if abs(value) > 0.6 * scale else INK
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    return figure


def _short(array: FloatArray, scale: float) -> list[str]:
    """Every number as a short text, with decimals that suit values of about `scale`, or in scientific notation."""
    exponent = math.floor(math.log10(scale))
    decimals = max(1 - exponent, 0)
    if not -2 < exponent < 4:
        return [
            "0" if abs(v) < 0.1 * scale else f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e") for v in array.flat
        ]
    return ["0" if abs(v) < 0.5 * 10.0**-decimals else f"{v:.{decimals}f}" for v in array.flat]
