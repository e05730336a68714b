"""Digits in four styles: what each style is, and which training images a shift of the labels drops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.envs import SUITES
from mtrl.envs.images.digit_styles import STYLES
from mtrl.envs.images.digits import sklearn_digits

pytest.importorskip("sklearn", reason="the extra `vision` is not installed")


def parts(**options: Any) -> tuple[Any, Any]:
    data = SUITES.build(SUITES.config_class("digit_styles")(**options)).data
    return data.train, data.test


def images(part: Any, task: int) -> Tensor:
    return part.pool[part.rows[task, : part.counts[task]]]


def test_each_task_shows_the_same_digits_in_its_style() -> None:
    train, _ = parts(noise=0.2)
    given = sklearn_digits(0.5, 0).train
    plain, inverted, rotated, noisy = (images(train, task) for task in range(len(STYLES)))
    assert torch.equal(plain, given.images) and torch.equal(inverted, 255 - given.images)
    for row in range(8):  # a quarter turn against the clock: the last column becomes the first row
        assert torch.equal(rotated[:, 0, row], given.images[:, 0, :, 7 - row])
    grey = (given.images > 80) & (given.images < 175)  # where no noise is cut off
    difference = (noisy.float() - given.images.float())[grey]
    assert difference.std() == pytest.approx(0.2 * 255, rel=0.1) and abs(float(difference.mean())) < 3
    for task in range(len(STYLES)):
        assert torch.equal(train.labels[task], given.labels)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_each_task_lacks_classes_of_its_own_in_training_alone(share: float) -> None:
    whole, test = parts()
    train, same = parts(shifted_classes=3, shifted_share=share)
    assert torch.equal(same.labels, test.labels) and torch.equal(same.counts, test.counts)
    for task, classes in enumerate([(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 0, 1)]):
        before, after = (torch.bincount(p.labels[task, : p.counts[task]], minlength=10) for p in (whole, train))
        for label in range(10):
            if label not in classes:
                assert after[label] == before[label]
            else:
                assert abs(int(after[label]) - (1 - share) * int(before[label])) <= 20 * (share < 1)
