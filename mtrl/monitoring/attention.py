"""Pictures of what a policy looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtrl.core.types import FloatArray


def attention_image(rgb: NDArray[np.uint8], attention: FloatArray) -> NDArray[np.uint8]:
    """The cameras' pictures side by side: grey where attention is zero, red where it is largest.

    rgb (C, H, W, 3); attention (C, h, w), h and w divisors of H and W; returns (H, C·W, 3).
    """
    factors = (rgb.shape[1] // attention.shape[1], rgb.shape[2] // attention.shape[2])
    heat = np.kron(attention / max(float(attention.max()), 1e-12), np.ones(factors))[..., None]
    grey = np.repeat(rgb.mean(-1, keepdims=True), 3, -1) * 0.7
    mixed = grey * (1 - heat) + np.array([255.0, 40.0, 0.0]) * heat
    return np.concatenate(list(mixed.round().astype(np.uint8)), axis=1)
