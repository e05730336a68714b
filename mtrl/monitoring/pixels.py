"""Draws predictions for each pixel beside the truth, and a gallery of examples."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray
from mtrl.monitoring.drawing import new_figure, save

_TURN = 0.618034
"""The step in hue from one class to the next, as a share of the colour circle. The golden ratio keeps neighbouring
classes apart."""


def side_by_side(kind: str, image: FloatArray, truth: FloatArray, predicted: FloatArray) -> NDArray[np.uint8]:
    """The image, the truth and the prediction side by side, (H, 3 W, 3).

    kind: "segmentation", "normals", or another, whose values are drawn in grey. image (3, H, W): in [0, 1]. truth and
    predicted (c, H, W): class indexes (c = 1), unit vectors (c = 3), or values (c = 1).
    """
    # Training refuses infinite predictions, but only after this picture.
    predicted = np.nan_to_num(predicted, nan=0.0, posinf=1e9, neginf=-1e9)
    largest = max(float(np.max(truth)), 1e-6)
    panels = [255 * image.transpose(1, 2, 0), _coloured(kind, truth, largest), _coloured(kind, predicted, largest)]
    return np.concatenate(panels, axis=1).round().clip(0, 255).astype(np.uint8)


def gallery(examples: Sequence[Mapping[str, NDArray[np.uint8]]], path: Path | str) -> Path:
    """Draw the pictures {name: (H, W, 3)} of each example: a row for each name, and a column for each example."""
    names, pictures = list(examples[0]), next(iter(examples[0].values()))
    width = 1.4 * pictures.shape[1] / pictures.shape[0]
    figure = new_figure(width * len(examples), 1.7 * len(names), "")
    panels = figure.subplots(len(names), len(examples), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for panel, example in zip(row, examples, strict=True):
            panel.imshow(example[name], interpolation="nearest")
            panel.set_axis_off()
        row[0].set_title(name.rpartition("/")[2], fontsize=10, loc="left")
    return save(figure, path)


def _coloured(kind: str, values: FloatArray, largest: float) -> FloatArray:
    """Values (c, H, W) -> colours (H, W, 3) from 0 to 255; black for negative classes and zero normals.

    largest: the value that is white, if values are drawn in grey.
    """
    if kind == "segmentation":
        classes = values[0].astype(np.int64)
        hues = [colorsys.hsv_to_rgb(k * _TURN % 1, 0.75, 0.95) for k in range(max(int(classes.max()), 0) + 1)]
        return 255 * np.where((classes >= 0)[..., None], np.array(hues)[classes.clip(0)], 0)
    if kind == "normals":
        known = (values != 0).any(0)[..., None]
        return np.where(known, 127.5 * (values.transpose(1, 2, 0) + 1), 0)
    return np.repeat(255 * values.transpose(1, 2, 0) / largest, 3, axis=2)
