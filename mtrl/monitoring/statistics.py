"""Aggregates over seeds, as in "Deep RL at the Edge of the Statistical Precipice" (Agarwal et al., 2021)."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.core.errors import expected, missing

SHARES = ("success", "accuracy", "precision", "recall", "f1")
"""The metrics that are shares in [0, 1] and shown in per cent."""


def is_share(metric: str) -> bool:
    """metric: its name, which may have a prefix as in train/success."""
    return metric.rpartition("/")[2] in SHARES


def shown(metric: str, value: float) -> str:
    """A value of a metric in a few characters: 43 %, or -251.4."""
    return f"{100 * value:.0f} %" if is_share(metric) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Interval(NamedTuple):
    """An estimate and the bounds of its interval; NaN bounds where there is one run and nothing to resample."""

    point: float
    low: float
    high: float


class Band(NamedTuple):
    """An estimate at each of K points, and its bounds; all (K,)."""

    point: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def interquartile_mean(
    scores: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95
) -> Interval:
    """The mean of the middle half of all scores (runs, tasks), with its stratified-bootstrap interval."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2:
        raise expected("Scores", "of shape (runs, tasks)", array.shape)
    band = interquartile_band(array[..., None], seed=seed, repetitions=repetitions, confidence=confidence)
    return Interval(*(float(values[0]) for values in band))


def interquartile_band(scores: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95) -> Band:
    """`interquartile_mean` at each of K points of learning curves (runs, tasks, K). Runs are resampled within
    each task, percentile intervals, by rliable.

    rliable draws from NumPy's global generator whatever `random_state` it is given: it is seeded for the call
    and then put back.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise expected("Scores", "of shape (runs, tasks, points), none of them 0", array.shape)
    if not np.isfinite(array).all():
        raise expected("Scores", "finite", "NaN or infinity")
    point = _middle_mean(array)
    if len(array) == 1:
        return Band(point, np.full_like(point, np.nan), np.full_like(point, np.nan))
    library = _rliable()
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, bounds = library.get_interval_estimates(
            {"scores": array}, _middle_mean, reps=repetitions, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(before)
    return Band(point, bounds["scores"][0], bounds["scores"][1])


def _rliable() -> ModuleType:
    try:
        from rliable import library
    except ModuleNotFoundError as error:
        raise missing("Intervals over seeds", "rliable", "statistics") from error
    return library


def _middle_mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(runs, tasks, K) -> (K,): a quarter of the values cut off at either end, rounded down."""
    values = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean(axis=0)
