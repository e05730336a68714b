"""Wanted objects; the search for commands on known maxima; the area under the ROC curve against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl.training.grasping import area_under_curve, pairs, search

REACH = np.array([[0.0, -1.0, -2.0], [1.0, 1.0, 2.0]])


def test_the_search_finds_the_best_command_of_each_problem() -> None:
    best = torch.tensor([[0.3, 0.4, -1.0], [0.9, -0.8, 1.5]])

    def score(commands: Tensor) -> Tensor:
        assert (commands >= torch.tensor(REACH[0]).float()).all() and (commands <= torch.tensor(REACH[1]).float()).all()
        return -((commands - best.unsqueeze(1)) / torch.tensor(REACH[1] - REACH[0]).float()).square().sum(-1)

    found = search(score, REACH, 2, torch.Generator().manual_seed(0))
    assert ((found - best).abs() / torch.tensor(REACH[1] - REACH[0]) < 0.1).all()


@pytest.mark.parametrize("tables", [1, 2, 5, 11, 20, 29, 30])
def test_no_table_and_object_occur_twice_before_all_have_occurred(tables: int) -> None:
    assert len(set(pairs(6 * tables, tables, 6))) == 6 * tables


def test_the_area_under_the_curve_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the extra `vision` is not installed")
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 5, 60) / 5, generator.random(60) < 0.3  # with ties
    assert area_under_curve(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
