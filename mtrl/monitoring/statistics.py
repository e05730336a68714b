"""Aggregates over seeds, as in "Deep RL at the Edge of the Statistical Precipice" (Agarwal et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.core.errors import expected, missing

OF_IMAGES = ("accuracy", "score")
"""Results that contain one of these metrics are of test images instead of episodes."""
SHARES = ("success", *OF_IMAGES, "precision", "recall", "f1", "miou", "pixel_accuracy", "within_11", "within_22",
          "within_30")  # fmt: skip
"""The metrics that are shares in [0, 1]; they are shown in per cent."""


def is_share(metric: str) -> bool:
    """Whether a metric is one of `SHARES`, possibly with a prefix as in train/success."""
    return metric.rpartition("/")[2] in SHARES


def shown(metric: str, value: float, digits: int = 0) -> str:
    """A metric's value as a short text: 43 %, or -251.4. digits: decimals of a percentage."""
    return (
        f"{100 * value:.{digits}f} %" if is_share(metric) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    )


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval, which are NaN for a single run."""

    point: float
    low: float
    high: float


class Band(NamedTuple):
    """An estimate at each of K points, and the bounds of its confidence interval (NaN for a single run); all (K,)."""

    point: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def interquartile_mean(
    scores: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95
) -> Interval:
    """The mean of the middle half of all scores (runs, tasks), with its stratified-bootstrap interval.

    seed and repetitions are those of the bootstrap.

    Raises:
        UserError: the scores have another shape or are not finite, or rliable is not installed.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2:
        raise expected("Scores", "of shape (runs, tasks)", array.shape)
    band = interquartile_band(array[..., None], seed=seed, repetitions=repetitions, confidence=confidence)
    return Interval(*(float(values[0]) for values in band))


def interquartile_band(scores: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95) -> Band:
    """`interquartile_mean` at each of K points of learning curves (runs, tasks, K)."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise expected("Scores", "of shape (runs, tasks, points), none of them 0", array.shape)
    return _estimate(middle_mean, [array], seed, repetitions, confidence)


def mean_band(scores: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95) -> Band:
    """The mean of all scores at each of K points of learning curves (runs, tasks, K), with its interval."""
    return _estimate(lambda found: found.mean((0, 1)), [np.asarray(scores, float)], seed, repetitions, confidence)


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95
) -> Band:
    """The share of all scores (runs, tasks) above each of K thresholds, with its interval."""
    array, limits = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    return _estimate(lambda found: (found[..., None] > limits).mean((0, 1)), [array], seed, repetitions, confidence)


class Comparison(NamedTuple):
    """A comparison of scores A (runs, T tasks) with scores B (other runs, the same tasks), with confidence intervals.

    The probability of improvement is the probability that a run of A has a higher score than one of B, where ties count
    half: P(A > B) + P(A = B) / 2, the Mann-Whitney statistic, averaged over tasks.
    """

    interquartile_mean: Interval
    """A's interquartile mean minus B's."""
    mean: Interval
    """A's mean minus B's."""
    improvement: Interval
    """The probability of improvement."""
    task_means: Band
    """(T,): for each task, A's mean minus B's."""
    task_improvements: Band
    """(T,): each task's probability of improvement."""


def compare(
    scores: ArrayLike, others: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95
) -> Comparison:
    """Compare two methods, whose runs are resampled independently of each other.

    Raises:
        UserError: the scores are not of the same tasks or not finite, or rliable is not installed.
    """
    arrays = [np.asarray(array, dtype=np.float64) for array in (scores, others)]
    if any(array.ndim != 2 for array in arrays) or arrays[0].shape[1] != arrays[1].shape[1]:
        raise expected("Scores", "of shapes (runs, tasks) and of the same tasks", [array.shape for array in arrays])
    found, size = _estimate(_differences, arrays, seed, repetitions, confidence), arrays[0].shape[1]
    whole = [Interval(*(float(values[k]) for values in found)) for k in range(3)]
    tasks = [Band(*(values[3 + k * size :][:size] for values in found)) for k in range(2)]
    return Comparison(whole[0], whole[1], whole[2], tasks[0], tasks[1])


def _differences(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of A and of B, each (runs, T) -> (3 + 2 T,) numbers, in the order of `Comparison`."""
    means = scores.mean(0) - others.mean(0)
    improvements = 0.5 + 0.5 * np.sign(scores[:, None] - others[None]).mean((0, 1))
    middle = middle_mean(scores[..., None]) - middle_mean(others[..., None])
    return np.concatenate([middle, [means.mean(), improvements.mean()], means, improvements])


def _estimate(
    function: Callable[..., NDArray[np.float64]],
    arrays: Sequence[NDArray[np.float64]],
    seed: int,
    repetitions: int,
    confidence: float,
) -> Band:
    """`function` of arrays (runs, tasks, ...) and its percentile interval by rliable's stratified bootstrap, which
    resamples runs within each task. Bounds are NaN if an array has a single run, which cannot be resampled.

    rliable draws from NumPy's global generator whatever `random_state` it is given, so this generator is seeded for the
    call and restored afterwards.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise expected("Scores", "finite", "NaN or infinity")
    point = function(*arrays)
    if min(map(len, arrays)) == 1:
        return Band(point, np.full_like(point, np.nan), np.full_like(point, np.nan))
    library = rliable()
    scores = arrays[0] if len(arrays) == 1 else list(arrays)  # the arrays of a list are resampled independently
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, bounds = library.get_interval_estimates(
            {"scores": scores}, function, reps=repetitions, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(before)
    return Band(point, bounds["scores"][0], bounds["scores"][1])


def rliable() -> ModuleType:
    """The library behind intervals. Raises UserError if it is not installed."""
    try:
        from rliable import library
    except ModuleNotFoundError as error:
        raise missing("Intervals over seeds", "rliable", "statistics") from error
    return library


def middle_mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(runs, tasks, K) -> (K,): interquartile means, without a quarter of the values (rounded down) at either end."""
    values = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean(axis=0)
