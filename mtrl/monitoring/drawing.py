"""The common look of all pictures: colours, grid and axes.

matplotlib is imported when a picture is drawn. Only its objects are used, so there are no windows or global figures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.core.errors import expected
from mtrl.core.imports import import_despite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
FloatArray = NDArray[np.float64]
STEPS = "steps per task"
"""The label of a training's x axis. The training loop decides what a step is: an environment step, an image, ..."""
SECONDS = "throughput/seconds"
"""The metric with the seconds that training has taken so far, without evaluations."""
_SVG_REST = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|(?<=>)\s+(?=<)|font-family: [^;]*;", re.DOTALL)
"""Parts of matplotlib's SVG that a page does not need."""
INK, GRID, BLUE = "#222222", "#dddddd", "#1f5fa8"
COLOURS = ("#1f5fa8", "#d1622b", "#2e8b57", "#8b4aa3", "#b8912a", "#c23b5a", "#3aa0b0", "#6b6b6b")


def look(place: int) -> dict[str, Any]:
    """The colour and dashes of the line with this number, counted from 0, as arguments of `plot`."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}


def new_figure(
    width: float, height: float, title: str, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure of `width` by `height` inches.

    layout: None leaves the margins to the caller, since measuring them takes seconds with many panels or labels.
    """
    # MPLBACKEND may name a backend that is not installed here, such as a notebook's.
    import_despite("matplotlib", "MPLBACKEND")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout=layout)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a file, and return the path. The suffix names the format; without one, .png is added.

    The folder is created.

    Raises:
        UserError: there is no such format, or the file cannot be written.
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise expected(f"Picture {path}", f"named as one of {', '.join(known)}", path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor="white")
    except OSError as error:
        raise expected(f"Picture {path}", "in a place that can be written", error.strerror) from error
    return path


def svg(figure: Figure) -> str:
    """The figure as one `<svg>` without a background, for a page that sets colours and font itself.

    INK, GRID and COLOURS[k] become the page's variables --ink, --grid and --c<k>. Text stays text.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.set_facecolor("none")
    for panel in figure.axes:
        panel.set_facecolor("none")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mtrl"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = _SVG_REST.sub("", text[text.index("<svg") :])
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)  # viewBox keeps the proportions
    named = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in named else "", text)
    for colour, name in {INK: "ink", GRID: "grid", **{c: f"c{k}" for k, c in enumerate(COLOURS)}}.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def style(panel: Axes, title: str) -> None:
    """Set a panel's title, and draw its grid, ticks and frame in the common look."""
    panel.set_title(title, fontsize=10.5, loc="left", color=INK)
    panel.grid(color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8.5, colors=INK, length=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GRID)


def percent_axis(panel: Axes) -> None:
    """Label the y axis in per cent, for values in [0, 1]."""
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def log_axis(panel: Axes) -> None:
    """Make the y axis logarithmic, with labels at powers of ten and, if these are few, also at 2 and 5 times them. Call
    it after drawing the curves, since it reads their range."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


def steps_axis(panel: Axes) -> None:
    """Label steps or minutes as 2k or 3M, but small numbers as 0.05, since 50m would be read as fifty minutes."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    large = EngFormatter(sep="")
    panel.xaxis.set_major_formatter(lambda value, _: large.format_data(value) if value >= 1 else f"{value:.3g}")
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.set_xlim(left=0.0)
