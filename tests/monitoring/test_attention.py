"""Pictures of what a policy looks at."""

from __future__ import annotations

import numpy as np

from mtrl.monitoring.attention import attention_image

RED = np.array([255, 40, 0])


def test_grey_where_nothing_is_looked_at_and_red_where_most_is() -> None:
    """Two cameras side by side, each cell of the attention over 2 × 3 pixels."""
    rgb = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    attention = np.zeros((2, 2, 2))
    attention[1, 0, 1], attention[0, 1, 0] = 0.5, 0.25
    found = attention_image(rgb, attention).astype(int)
    assert found.shape == (4, 12, 3)
    first, second = found[:, :6], found[:, 6:]
    grey = 0.7 * rgb.mean(-1, keepdims=True).repeat(3, -1)
    assert (second[:2, 3:] == RED).all()
    assert np.abs(first[2:, :3] - (grey[0, 2:, :3] + RED) / 2).max() <= 0.5
    for picture, expected, looked in ((first, grey[0], np.s_[2:, :3]), (second, grey[1], np.s_[:2, 3:])):
        elsewhere = np.ones((4, 6), bool)
        elsewhere[looked] = False
        assert np.abs(picture - expected)[elsewhere].max() <= 0.5


def test_attention_to_nothing_is_all_grey() -> None:
    found = attention_image(np.full((1, 2, 2, 3), 100, np.uint8), np.zeros((1, 2, 2)))
    assert (found == 70).all()
