"""The goals of pushing: ranges, refusals, codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.envs.pushing.goals import check_goals, draw_goals, nearest, normalised

LOW, HIGH = [-0.2, 0.6, -0.2, 0.85], [0.2, 0.7, 0.2, 0.95]
"""The paper's ranges, App. B."""


def test_goals_fill_the_papers_ranges() -> None:
    goals = draw_goals(0, 5000)
    assert (goals >= LOW).all()
    assert (goals <= HIGH).all()
    sides = np.subtract(HIGH, LOW)
    np.testing.assert_allclose(goals.min(0), LOW, atol=0.01)
    np.testing.assert_allclose(goals.max(0), HIGH, atol=0.01)
    np.testing.assert_allclose(goals.std(0), sides / np.sqrt(12), rtol=0.05)
    assert np.abs(np.corrcoef(goals.T) - np.eye(4)).max() < 0.05


def test_seeds_give_the_same_goals_and_those_held_out_are_others() -> None:
    first, again, other = draw_goals(3, 200), draw_goals(3, 200), draw_goals(4, 200)
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()
    assert not np.isin(first, draw_goals(3, 50, held_out=True)).any()
    np.testing.assert_array_equal(first[:10], draw_goals(3, 10))


@pytest.mark.parametrize(
    "goals",
    [
        [[0.0, 0.65, 0.0, 0.8]],
        [[0.0, 0.65, 0.0, 0.9], [0.21, 0.65, 0.0, 0.9]],
        [[0.0, 0.59, 0.0, 0.9]],
        [[0.0, 0.65, np.nan, 0.9]],
        [[0.0, 0.65, np.inf, 0.9]],
        [0.0, 0.65, 0.0, 0.9],
        [[0.0, 0.65, 0.9]],
        [["a", "b", "c", "d"]],
        [[0.0, 0.65], [0.0]],
        None,
    ],
)
def test_bad_goals_are_refused_with_the_range(goals: Any) -> None:
    with pytest.raises(
        UserError, match=r"x in -0\.2\.\.0\.2, y of the puck in 0\.6\.\.0\.7, y of its place in 0\.85"
    ) as found:
        check_goals(goals)
    assert "\n" not in str(found.value)


def test_the_edges_are_inside_in_either_precision() -> None:
    for edge in (LOW, HIGH):
        np.testing.assert_array_equal(check_goals([edge])[0], edge)
        rounded = check_goals(np.array([edge], np.float32))[0]
        np.testing.assert_allclose(rounded, edge, atol=1e-7)
        assert ((rounded >= LOW) & (rounded <= HIGH)).all()


def test_networks_see_goals_within_one() -> None:
    np.testing.assert_allclose(
        normalised(np.array([LOW, HIGH, np.add(LOW, HIGH) / 2])), [[-1] * 4, [1] * 4, [0] * 4], atol=1e-6
    )


def test_the_nearest_goal_is_found() -> None:
    table = draw_goals(0, 40)
    np.testing.assert_array_equal(nearest(table, table), np.arange(40))
    new = draw_goals(1, 30)
    sides = np.subtract(HIGH, LOW)
    by_hand = [min(range(40), key=lambda i: float((((goal - table[i]) / sides) ** 2).sum())) for goal in new]
    np.testing.assert_array_equal(nearest(new, table), by_hand)
