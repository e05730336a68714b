"""Pictures of predictions for each pixel."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray

_TURN = 0.618034
"""The step in hue from one class to the next, in turns. The golden section keeps neighbours apart."""


def side_by_side(kind: str, image: FloatArray, truth: FloatArray, predicted: FloatArray) -> NDArray[np.uint8]:
    """A picture, the truth and the prediction, (H, 3 W, 3).

    kind: as in `data.pixel_tasks`; image (3, H, W) in [0, 1]; truth and predicted (c, H, W), a segmentation as classes.
    """
    predicted = np.nan_to_num(
        predicted, nan=0.0, posinf=1e9, neginf=-1e9
    )  # training stops at these, once the picture is logged
    largest = max(float(np.max(truth)), 1e-6)
    panels = [255 * image.transpose(1, 2, 0), _coloured(kind, truth, largest), _coloured(kind, predicted, largest)]
    return np.concatenate(panels, axis=1).round().clip(0, 255).astype(np.uint8)


def _coloured(kind: str, values: FloatArray, largest: float) -> FloatArray:
    """(c, H, W) -> colours (H, W, 3) from 0 to 255; black where nothing is known."""
    if kind == "segmentation":
        classes = values[0].astype(np.int64)
        hues = [colorsys.hsv_to_rgb(k * _TURN % 1, 0.75, 0.95) for k in range(max(int(classes.max()), 0) + 1)]
        return 255 * np.where((classes >= 0)[..., None], np.array(hues)[classes.clip(0)], 0)
    if kind == "normals":
        known = (values != 0).any(0)[..., None]
        return np.where(known, 127.5 * (values.transpose(1, 2, 0) + 1), 0)
    return np.repeat(255 * values.transpose(1, 2, 0) / largest, 3, axis=2)
