"""Masks, focal loss, weights and entropy against values worked out by hand, and the main network's loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mtrl.agents.auxiliary.labels import (
    batch_entropy,
    focal_loss,
    hierarchy_mask,
    masked_softmax,
    scaled_weight,
    weight_of_class,
)
from mtrl.agents.auxiliary.learner import Objective
from tests.support.auxiliary_problems import SIZES, learner, same, tensors


def test_the_hierarchy_is_equation_6() -> None:
    """m_k = 1 for ψ y ≤ k < ψ (y + 1): two classes of three."""
    mask = hierarchy_mask(torch.tensor([0, 1]), 2, 3)
    assert mask.tolist() == [[True, True, True, False, False, False], [False, False, False, True, True, True]]


def test_the_masked_softmax_is_equation_5() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0, 9.0]]))
    mask = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(masked_softmax(logits, mask), torch.tensor([[1 / 8, 2 / 8, 5 / 8, 0.0]]))


def test_focal_loss_by_hand() -> None:
    """Probabilities 1/4 and 3/4: (3/4)² log 4 and (1/4)² log 4/3."""
    logits = torch.log(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    found = focal_loss(logits, torch.tensor([0, 1]), 2.0)
    torch.testing.assert_close(found, torch.tensor([9 / 16 * math.log(4), 1 / 16 * math.log(4 / 3)]))
    shares = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(focal_loss(logits[:1], shares, 2.0), found.mean().view(1))
    torch.testing.assert_close(focal_loss(logits, torch.tensor([0, 1]), 0.0),
                               F.cross_entropy(logits, torch.tensor([0, 1]), reduction="none"))  # fmt: skip


@pytest.mark.parametrize("focusing", [0.5, 1.0, 1.5, 2.0])
def test_a_certain_prediction_has_no_focal_loss_and_finite_slopes(focusing: float) -> None:
    """Of first order, and of the second, which MAXL needs."""
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0]), focusing)
    (slope,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(slope[0, 0], logits)
    assert loss.item() == 0 and slope.isfinite().all() and second.isfinite().all()


@pytest.mark.parametrize(("chosen", "weight"), [(0, 1 / 32), (10, 1.0), (20, 32.0), (12, 2.0)])
def test_weights_are_equation_8(chosen: int, weight: float) -> None:
    torch.testing.assert_close(weight_of_class(torch.tensor([chosen])), torch.tensor([weight]))
    torch.testing.assert_close(scaled_weight(torch.tensor(chosen / 20)), torch.tensor(weight))


def test_batch_entropy_is_that_of_the_mean() -> None:
    """Two certain but different labels: the mean is uniform over two, log 2; one of probability zero adds nothing."""
    certain = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(batch_entropy(certain), torch.tensor(math.log(2)))
    assert batch_entropy(certain[:1]) == 0


def test_the_loss_is_equation_7_by_hand() -> None:
    """One image of class 0, primary logits (0, 0); auxiliary label 1 of six equal logits; weight 2, λ = 3, γ = 2."""
    objective = Objective(SIZES, auxiliary_weight=3.0, focusing=2.0, mask_head=False)
    logits = torch.zeros(1, 2), torch.zeros(1, 6)
    label, auxiliary, weight = torch.tensor([0]), torch.tensor([1]), torch.tensor([2.0])
    loss, parts = objective(logits, label, auxiliary, weight)
    assert float(loss) == pytest.approx(math.log(2) + 3 * 2 * (5 / 6) ** 2 * math.log(6))
    assert float(parts["primary_loss"]) == pytest.approx(math.log(2))
    masked, _ = objective._replace(mask_head=True)(logits, label, auxiliary, None)
    assert float(masked) == pytest.approx(math.log(2) + 3 * (2 / 3) ** 2 * math.log(3))
    alone, _ = objective(logits, label, None, None)
    assert float(alone) == pytest.approx(math.log(2))
    focal, parts = objective._replace(primary_focusing=2.0)(logits, label, None, None)
    assert float(focal) == float(parts["primary_loss"]) == pytest.approx((1 / 2) ** 2 * math.log(2))


def test_a_snapshot_brings_back_network_statistics_and_momentum() -> None:
    main = learner()
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    main.train_batch(images, labels, 3 * labels, None)
    before, saved = tensors(main.network), main.snapshot()
    after = []
    for _ in range(2):
        main.train_batch(images, labels, 3 * labels, None)
        main.train_batch(images, labels, 3 * labels + 1, torch.rand(4))
        after.append(float(main.evaluate(images, labels)))
        assert not same(before, main.network)
        torch.manual_seed(0)
        main.restore(saved)
        assert same(before, main.network)
        main.train_batch(images, labels, None, None)
        after.append(float(main.evaluate(images, labels)))
        main.restore(saved)
    assert after[1] == after[3], "the optimiser's momentum came back too"
