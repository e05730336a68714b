"""Pictures of gradient methods: conflicts, task weights, and the tragic triad."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mtrl.core.errors import expected
from mtrl.monitoring.curves import curves
from mtrl.monitoring.drawing import (
    COLOURS,
    INK,
    STEPS,
    FloatArray,
    Row,
    log_axis,
    new_figure,
    percent_axis,
    save,
    steps_axis,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 12
"""The most tasks that are drawn as lines with a legend. More are rows of a picture, or lines without a legend."""
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def conflicts(rows: Sequence[Row], tasks: Sequence[str], path: Path | str) -> Path:
    """Draw for each network how often pairs of tasks conflict, their mean cosines, and the tasks' gradient norms.

    Raises:
        UserError: no row tells which tasks conflict. Only updates that compute each task's gradient log this, and not
            where the tasks change from batch to batch.
    """
    needed = "rows with conflicts of pairs of tasks, from a method that computes each task's gradient"
    parts = parts_of(rows, "conflicts", needed)
    size = len(tasks)
    side = max(2.2, size * (0.36 if size <= LINES else 0.13))
    font = 8.0 if size <= LINES else 6.0
    label = 0.25 + 0.0075 * font * max(map(len, tasks))
    lefts = np.cumsum([0.65, 3.0 + label, side + 0.85, side + 1.25])
    widths = (3.0, side, side, 3.0)
    legend = label + 0.3 if size <= LINES else 0.15
    width, height = lefts[-1] + 3.0 + legend, len(parts) * (side + 0.85) + label
    figure = new_figure(width, height, "", layout=None)
    for number, part in enumerate(parts):
        bottom = height - (number + 1) * (side + 0.85) + 0.45
        places = [(x / width, bottom / height, w / width, side / height) for x, w in zip(lefts, widths, strict=True)]
        last = number == len(parts) - 1
        _conflict_row([figure.add_axes(place) for place in places], rows, tasks, part, font, last)
    return save(figure, path)


def _conflict_row(
    panels: Sequence[Axes], rows: Sequence[Row], tasks: Sequence[str], part: str, font: float, last: bool
) -> None:
    steps, shares = matrices(rows, f"{part}conflicts")
    _, cosines = matrices(rows, f"{part}cosine")
    pairs = np.triu_indices(len(tasks), 1)
    count = max(len(pairs[0]), 1)
    panels[0].plot(steps, shares[:, *pairs].sum(1) / count, color=COLOURS[0], linewidth=2.0)
    curve_axes(panels[0], f"{_title(part)}conflicting pairs", last)
    panels[0].set_ylim(-0.03, 1.03)
    percent_axis(panels[0])
    _matrix(panels[1], cosines.mean(0), "mean cosine", "RdBu", (-1.0, 1.0))
    _matrix(panels[2], shares.mean(0), "share of updates in conflict, %", "Reds", (0.0, 1.0))
    for panel, named in zip(panels[1:3], (True, False), strict=True):
        panel.set_xticks(range(len(tasks)), tasks if last else [""] * len(tasks), rotation=90, fontsize=font)
        panel.set_yticks(range(len(tasks)), tasks if named else [""] * len(tasks), fontsize=font)
    task_curves(panels[3], rows, tasks, f"{part}task_grad_norm", "gradient norms", last, len(tasks) <= LINES)
    log_axis(panels[3])


def lambdas(rows: Sequence[Row], tasks: Sequence[str], path: Path | str) -> Path:
    """Draw the tasks' weights over training, with a panel for each network.

    Raises:
        UserError: no row has weights.
    """
    parts = parts_of(rows, f"weight/{tasks[0]}", "rows with task weights")
    figure = new_figure(9.0, (2.9 if len(tasks) <= LINES else 1.2 + 0.15 * len(tasks)) * len(parts), "")
    for panel, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        title = f"{_title(part)}task weights"
        if len(tasks) <= LINES:
            task_curves(panel, rows, tasks, f"{part}weight", title, labelled=part == parts[-1], legend=True)
        else:
            task_rows(panel, *curves(rows, tasks, f"{part}weight"), tasks, title)
    return save(figure, path)


def relationships(runs: Mapping[str, Sequence[Sequence[Row]]], tasks: Sequence[str], path: Path | str) -> Path:
    """Draw the last weights of all tasks, with a row for each choice of primary tasks (Auto-λ paper, Figs. 3 and 11).

    runs: {primary tasks: the rows of each run with this choice}. Weights are averaged over these runs. Each network
        has a panel.

    Raises:
        UserError: a run has no weights.
    """
    name = f"weight/{tasks[0]}"
    parts = max((parts_of(rows, name, "rows with task weights") for found in runs.values() for rows in found), key=len)
    side = 0.62 if len(tasks) <= LINES else 0.3
    label = 0.4 + 0.075 * max(map(len, [*tasks, *runs]))
    height = len(parts) * (max(1.2, side * len(runs)) + 0.5) + label
    figure = new_figure(1.5 + label + side * len(tasks), height, "")
    for panel, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        last = [[curves(rows, tasks, f"{part}weight")[1][:, -1] for rows in found] for found in runs.values()]
        array = np.array([np.mean(each, 0) for each in last])
        limits = (min(0.0, float(array.min())), float(array.max()))
        _matrix(panel, array, f"{_title(part)}last task weights", "Blues", limits, plain=True)
        panel.set_yticks(range(len(runs)), list(runs), fontsize=8)
        panel.set_xticks(range(len(tasks)), tasks, rotation=90, fontsize=8)
        panel.set_ylabel("primary tasks", fontsize=9)
    return save(figure, path)


def triad(runs: Mapping[str, Sequence[Row]], tasks: Sequence[str], path: Path | str) -> Path:
    """Draw Fig. 4 of the PCGrad paper for runs {label: rows}, with a row of panels for each network.

    The panels show curvature; the shares of pairs of tasks with a positive cosine, and of conflicting pairs that meet
    each condition; similarity of gradient norms; and returns (in a second row, success).

    Raises:
        UserError: a run has no rows of `diagnostics=triad`.
    """
    needed = "rows of a run with diagnostics=triad"
    parts = max((parts_of(rows, "triad/curvature", needed) for rows in runs.values()), key=len)
    figure = new_figure(15.0, 3.3 * len(parts) + 0.5, "")
    grid = figure.subplots(len(parts), 4, squeeze=False)
    for panels, part in zip(grid, parts, strict=True):
        for (label, rows), colour in zip(runs.items(), itertools.cycle(COLOURS), strict=False):
            _triad_row(panels, rows, f"{part}triad/", colour, label)
        _finish_triad_row(panels, part)
    outcomes = zip(grid[:, 3], ("train/return", "train/success"), strict=False)
    for panel, name in outcomes:
        _outcomes(panel, runs, tasks, name)
    _legend(figure, runs)
    return save(figure, path)


def _triad_row(panels: Sequence[Axes], rows: Sequence[Row], prefix: str, colour: str, label: str) -> None:
    steps, curvature = matrices(rows, f"{prefix}curvature")
    panels[0].plot(steps, curvature, color=colour, linewidth=1.6, label=label)
    for name, dashes in (("positive_cosine", "-"), ("condition_a", ":"), ("condition_b", "--")):
        steps, share = matrices(rows, prefix + name)
        panels[1].plot(steps, _smooth(share), color=colour, linewidth=1.6, linestyle=dashes)
    steps, similarity = matrices(rows, f"{prefix}magnitude_similarity")
    panels[2].plot(steps, similarity, color=colour, linewidth=1.6)


def _finish_triad_row(panels: Sequence[Axes], part: str) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in panels[0].lines])
    known = np.abs(values[np.isfinite(values) & (values != 0)])
    if known.size and np.nanmin(values) > 0:
        panels[0].set_yscale("log")
    elif known.size:
        panels[0].set_yscale("symlog", linthresh=float(np.quantile(known, 0.1)))
    curve_axes(panels[0], f"{_title(part)}multi-task curvature H")
    curve_axes(panels[1], "shares of pairs, and of conflicting pairs")
    curve_axes(panels[2], "similarity of gradient norms Φ")
    panels[2].set_ylim(-0.03, 1.03)
    _share_axis(panels[1])
    names = ("pairs with cos φ > 0", "conflicting pairs with cos φ ≤ −Φ", "conflicting pairs with ξ ≤ 1")
    _dash_legend(panels[1], names, ("-", ":", "--"))


def _share_axis(panel: Axes) -> None:
    """Let the axis go from 0 to 100 %, with room for a legend."""
    panel.set_ylim(-0.03, 1.42)
    panel.set_yticks(np.linspace(0, 1, 6))
    percent_axis(panel)


def _outcomes(panel: Axes, runs: Mapping[str, Sequence[Row]], tasks: Sequence[str], name: str) -> None:
    """Draw each task's return or success, or the mean over tasks if there are more tasks than line styles."""
    few, known = len(tasks) <= len(DASHES), False
    for (_, rows), colour in zip(runs.items(), itertools.cycle(COLOURS), strict=False):
        steps, values = curves(rows, tasks, name, required=False)
        if not steps.size:
            continue
        known = True
        for row, dashes in zip(values if few else values.mean(0, keepdims=True), DASHES, strict=False):
            panel.plot(steps, _smooth(row), color=colour, linewidth=1.6, linestyle=dashes)
    panel.set_visible(known)
    what = name.removeprefix("train/")
    curve_axes(panel, f"{what} in training" if few else f"mean {what} in training")
    if name == "train/success":
        _share_axis(panel)
    else:
        panel.margins(y=0.2)
    if few and known:
        _dash_legend(panel, tasks, DASHES)


def _dash_legend(panel: Axes, names: Sequence[str], dashes: Sequence[Literal["-", "--", ":", "-."]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=INK, linestyle=d, label=name) for name, d in zip(names, dashes, strict=False)]
    panel.legend(handles=lines, fontsize=8, framealpha=0.8, edgecolor="none", loc="upper left")


def _legend(figure: Figure, runs: Iterable[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=c, linewidth=2.5, label=label)
        for label, c in zip(runs, itertools.cycle(COLOURS), strict=False)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), frameon=False, fontsize=10)


def task_curves(
    panel: Axes, rows: Sequence[Row], tasks: Sequence[str], name: str, title: str, labelled: bool, legend: bool
) -> None:
    """Draw a line for each task. labelled: whether the x axis gets a label."""
    steps, values = curves(rows, tasks, name)
    for number, (task, row) in enumerate(zip(tasks, values, strict=True)):
        turn, colour = divmod(number, len(COLOURS))
        dashes = DASHES[turn % len(DASHES)]
        panel.plot(steps, row, color=COLOURS[colour], linestyle=dashes, linewidth=1.4, label=task)
    curve_axes(panel, title, labelled)
    if legend:
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def task_rows(panel: Axes, steps: FloatArray, values: FloatArray, tasks: Sequence[str], title: str) -> None:
    """Draw values (T, K) at steps (K,) as colours, with a row for each task."""
    middles = (steps[1:] + steps[:-1]) / 2  # a column reaches half-way to its neighbours, which may be unevenly far
    edges = np.concatenate([steps[:1], middles, steps[-1:] + 1e-9])
    drawn = panel.pcolormesh(edges, np.arange(len(tasks) + 1) - 0.5, values, cmap="viridis")
    panel.invert_yaxis()
    panel.set_title(title, fontsize=10.5, loc="left", color=INK)
    panel.set_yticks(range(len(tasks)), tasks, fontsize=6.5)
    panel.tick_params(length=0)
    steps_axis(panel)
    panel.set_xlabel(STEPS, fontsize=9)
    panel.figure.colorbar(drawn, ax=panel, fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)


def _matrix(
    panel: Axes, array: FloatArray, title: str, colours: str, limits: tuple[float, float], plain: bool = False
) -> None:
    """Draw a matrix, with its values if it is small. They are in per cent, unless `plain` is true or the lower limit is
    negative."""
    drawn = panel.imshow(array, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_title(title, fontsize=10.5, loc="left", color=INK)
    bar = panel.inset_axes((1.03, 0.0, 0.05, 1.0))
    scale = panel.figure.colorbar(drawn, cax=bar, ticks=[limits[0], sum(limits) / 2, limits[1]]).ax
    scale.tick_params(labelsize=7)
    if limits[0] >= 0 and not plain:
        percent_axis(scale)
    if max(array.shape) <= LINES:
        for (row, column), value in np.ndenumerate(array):
            ink = "white" if abs(value) > 0.6 * limits[1] else INK
            decimal = f"{value:.2f}" if plain else f"{value:.2f}".replace("0.", ".", 1)
            text = decimal if plain or limits[0] < 0 else f"{100 * value:.0f}"
            panel.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)


def curve_axes(panel: Axes, title: str, labelled: bool = True) -> None:
    """Style a panel whose x axis shows steps. labelled: whether the axis gets a label."""
    style(panel, title)
    steps_axis(panel)
    if labelled:
        panel.set_xlabel(STEPS, fontsize=9)


def parts_of(rows: Sequence[Row], name: str, needed: str) -> list[str]:
    """The prefixes under which a metric is logged, such as `critic/`; "" for an agent with one network.

    Raises:
        UserError: no row has the metric; the message asks for `needed`.
    """
    found = dict.fromkeys(k[: -len(name)] for row in rows for k in row if k == name or k.endswith(f"/{name}"))
    if not found:
        raise expected("Metrics", needed, f"none in {len(rows)} rows")
    return sorted(found, reverse=True)


def _title(part: str) -> str:
    return f"{part.rstrip('/')}: " if part else ""


def matrices(rows: Sequence[Row], name: str) -> tuple[FloatArray, FloatArray]:
    """Steps (K,) and matrices (K, T, T), or numbers (K,) if numbers are logged under that name. A null becomes NaN."""
    found = [row for row in rows if name in row]
    steps = np.array([row["step"] for row in found], dtype=np.float64)
    return steps, np.array([row[name] for row in found], dtype=np.float64)


def _smooth(values: FloatArray) -> FloatArray:
    """The running mean over a twentieth of the points, without those that are NaN."""
    half = len(values) // 40
    windows = [values[max(k - half, 0) : k + half + 1] for k in range(len(values))]
    return np.array([np.nanmean(w) if np.isfinite(w).any() else math.nan for w in windows])
