"""The interquartile mean and its interval."""

import sys

import numpy as np
import pytest
from scipy import stats

from mtrl.core.errors import UserError
from mtrl.monitoring.statistics import compare, interquartile_band, interquartile_mean, performance_profile


def scores(runs: int = 5, tasks: int = 10) -> np.ndarray:
    return np.random.default_rng(runs).uniform(size=(runs, tasks))


@pytest.mark.parametrize("runs", [1, 2, 5])
@pytest.mark.parametrize("tasks", [1, 3, 10])
def test_point_is_the_mean_without_the_outer_quarters(runs, tasks):
    array = scores(runs, tasks)
    assert interquartile_mean(array).point == pytest.approx(stats.trim_mean(array.ravel(), 0.25))


def test_outliers_do_not_move_it():
    array = scores()
    worse = np.where(array == array.max(), 1e9, array)
    assert interquartile_mean(worse).point == interquartile_mean(array).point


def test_same_seed_same_interval():
    first = interquartile_mean(scores(), seed=3)
    np.random.rand(10)
    assert interquartile_mean(scores(), seed=3) == first != interquartile_mean(scores(), seed=4)


def test_call_leaves_the_global_generator_where_it_was():
    np.random.seed(1)
    expected = np.random.rand(3)
    np.random.seed(1)
    interquartile_mean(scores())
    np.testing.assert_array_equal(np.random.rand(3), expected)


def test_interval_agrees_with_a_plain_stratified_bootstrap():
    array, generator = scores(8, 5), np.random.default_rng(0)
    draws = [
        stats.trim_mean(array[generator.integers(0, 8, size=(8, 5)), np.arange(5)].ravel(), 0.25) for _ in range(4000)
    ]
    interval = interquartile_mean(array, repetitions=4000)
    np.testing.assert_allclose(interval[1:], np.percentile(draws, [2.5, 97.5]), atol=0.01)
    assert interval.low < interval.point < interval.high


def test_interval_has_no_width_where_runs_agree():
    array = np.tile(np.linspace(0.0, 1.0, 10), (4, 1))
    interval = interquartile_mean(array)
    np.testing.assert_allclose(interval, interval.point)


def test_one_run_has_no_interval():
    interval = interquartile_mean(scores(1))
    assert np.isnan(interval.low) and np.isnan(interval.high)


def test_band_is_the_mean_at_every_point():
    curve = np.stack([scores(), scores() ** 2], axis=-1)
    band = interquartile_band(curve)
    for point in range(2):
        assert band.point[point] == pytest.approx(interquartile_mean(curve[..., point]).point)
    assert (band.low < band.point).all() and (band.point < band.high).all()


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 3)), np.array([[np.nan, 1.0]])])
def test_bad_scores_are_named(bad):
    with pytest.raises(UserError, match="Scores should be"):
        interquartile_mean(bad)


def test_without_rliable_one_run_works_and_more_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert interquartile_mean(scores(1)).point > 0
    with pytest.raises(UserError, match="statistics"):
        interquartile_mean(scores(2))


def test_a_comparison_of_two_runs_each_computed_by_hand():
    found = compare([[1.0, 0.2], [0.5, 0.2]], [[0.5, 0.2], [0.0, 0.4]])
    # Task 1: 1 > 0.5, 1 > 0, 0.5 = 0.5, 0.5 > 0: three wins and a tie of four. Task 2: two ties, two losses.
    assert found.task_improvements.point == pytest.approx([3.5 / 4, 1.0 / 4])
    assert found.improvement.point == pytest.approx((3.5 / 4 + 1.0 / 4) / 2)
    assert found.task_means.point == pytest.approx([0.5, -0.1]) and found.mean.point == pytest.approx(0.2)
    # The middle two of 0.2 0.2 0.5 1 and of 0 0.2 0.4 0.5.
    assert found.interquartile_mean.point == pytest.approx((0.2 + 0.5) / 2 - (0.2 + 0.4) / 2)


@pytest.mark.parametrize(("runs", "others"), [(3, 3), (5, 8)])
def test_a_comparison_agrees_with_rliable(runs, others):
    from rliable import library, metrics

    first, second = np.round(scores(runs), 1), np.round(scores(others), 1)  # rounded, so that there are ties
    found = compare(first, second, seed=1, repetitions=1000)
    assert found.improvement.point == pytest.approx(metrics.probability_of_improvement(first, second))
    difference = metrics.aggregate_iqm(first) - metrics.aggregate_iqm(second)
    assert found.interquartile_mean.point == pytest.approx(difference)
    for task in range(10):
        alone = metrics.probability_of_improvement(first[:, [task]], second[:, [task]])
        assert found.task_improvements.point[task] == pytest.approx(alone)
    np.random.seed(1)
    _, bounds = library.get_interval_estimates(
        {"both": [first, second]}, lambda *both: np.array([metrics.probability_of_improvement(*both)]), reps=1000
    )
    np.testing.assert_allclose(found.improvement[1:], bounds["both"][:, 0])


def test_a_performance_profile_agrees_with_rliable():
    from rliable import library

    array, thresholds = scores(4), np.linspace(0.0, 1.0, 11)
    np.random.seed(2)
    profiles, bounds = library.create_performance_profile({"a": array}, thresholds, reps=200)
    found = performance_profile(array, thresholds, seed=2, repetitions=200)
    np.testing.assert_allclose(found.point, profiles["a"])
    np.testing.assert_allclose([found.low, found.high], bounds["a"])


def test_one_run_against_several_has_no_interval():
    found = compare(scores(1), scores(3))
    assert np.isnan(found.improvement.low) and np.isnan(found.task_means.high).all()


def test_scores_of_other_tasks_are_not_compared():
    with pytest.raises(UserError, match="the same tasks"):
        compare(scores(3, 4), scores(3, 5))
