"""Pictures of targets and predictions."""

from __future__ import annotations

import numpy as np
import pytest

from mtrl.data.pixel_tasks import KINDS
from mtrl.monitoring.pixels import side_by_side

HEIGHT, WIDTH = 3, 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_values_have_the_same_colours(kind: str) -> None:
    """Beside the picture as it is: truth and prediction look alike where they are alike, and differ elsewhere."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(3, HEIGHT, WIDTH))
    truth = rng.uniform(0.2, 1, (3 if kind == "normals" else 1, HEIGHT, WIDTH))
    if kind == "segmentation":
        truth = np.arange(HEIGHT * WIDTH, dtype=np.float64).reshape(1, HEIGHT, WIDTH) % 5
    told = truth.copy()
    told[:, 0, 0] = 3 if kind == "segmentation" else 0.1
    shown = side_by_side(kind, image, truth, told)
    first, second, third = np.split(shown, 3, axis=1)
    assert shown.dtype == np.uint8 and np.abs(first / 255 - image.transpose(1, 2, 0)).max() < 3e-3
    alike = (second == third).all(-1)
    assert not alike[0, 0] and alike.sum() == HEIGHT * WIDTH - 1
    if kind == "segmentation":
        assert len(np.unique(second.reshape(-1, 3), axis=0)) == 5


def test_a_prediction_that_is_not_finite_has_a_picture() -> None:
    truth, told = np.ones((1, 2, 2)), np.array([[[np.nan, np.inf], [-np.inf, 1.0]]])
    shown = side_by_side("depth", np.ones((3, 2, 2)), truth, told)[:, 4:, 0]
    assert shown.tolist() == [[0, 255], [0, 255]]


def test_what_is_not_known_is_black() -> None:
    image, nothing = np.ones((3, 2, 2)), {"segmentation": -1.0, "normals": 0.0, "depth": 0.0}
    for kind, value in nothing.items():
        truth = np.full((3 if kind == "normals" else 1, 2, 2), value)
        assert not side_by_side(kind, image, truth, truth)[:, 2:].any()
