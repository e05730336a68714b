"""What is read back from the panels of a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend


def title(panel: Axes) -> str:
    return panel.get_title(loc="left")


def panels(figure: Figure) -> dict[str, Axes]:
    """Title -> panel, of the visible ones that have a title."""
    named = [panel for panel in figure.axes if panel.get_visible() and title(panel)]
    assert len({title(panel) for panel in named}) == len(named)
    return {title(panel): panel for panel in named}


def lines(panel: Axes) -> list[np.ndarray]:
    """Points (2, K) of each line, in the order of drawing."""
    return [np.array(line.get_data(), float) for line in panel.lines]


def image(panel: Axes) -> np.ndarray:
    """The array that is drawn as a picture; NaN where it is blank."""
    (found,) = panel.findobj(AxesImage)
    assert isinstance(found, AxesImage)
    return np.ma.filled(np.ma.asarray(found.get_array(), float), np.nan)


def mesh(panel: Axes) -> tuple[np.ndarray, np.ndarray]:
    """The x of the edges of the columns that are drawn as colours, and the values, with a row for each task."""
    (found,) = panel.findobj(QuadMesh)
    assert isinstance(found, QuadMesh)
    return np.asarray(found.get_coordinates())[0, :, 0], np.ma.asarray(found.get_array(), float).data


def texts(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def labels(legend: Legend | None) -> list[str]:
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def ticks(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def shows_all(panel: Axes) -> bool:
    """Whether every point of the lines lies within the limits."""
    points = np.concatenate([found for found in lines(panel) if found.size], axis=1)
    low, high = np.array([panel.get_xlim(), panel.get_ylim()]).T
    known = np.isfinite(points).all(0)
    return bool(((points[:, known] >= low[:, None] - 1e-9) & (points[:, known] <= high[:, None] + 1e-9)).all())
