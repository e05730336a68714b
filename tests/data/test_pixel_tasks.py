"""Losses and measures of each kind of task, against a few lines in NumPy on random data with ignored pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.data.pixel_tasks import KINDS, Depth, Disparity, Noise, Normals, PixelTask, Segmentation

CLASSES = 4
SHAPE = (3, 6, 5)
"""B, H, W"""
Array = NDArray[np.float64]


def drawn(channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE[0], channels, *SHAPE[1:], dtype=torch.float64, generator=generator)


def ignored(seed: int) -> Tensor:
    """A third of all pixels, (B, 1, H, W) bool."""
    return drawn(1, seed) > 0.5


def pixels(values: Tensor, valid: Tensor) -> Array:
    """The valid pixels' values as rows (n, channels)."""
    return values.movedim(1, -1).numpy()[valid.squeeze(1).numpy()]


def found(task: PixelTask, output: Tensor, target: Tensor) -> dict[str, float]:
    """The measures of the sum of two tallies: the first picture's, and the others'."""
    tally = task.tally(output[:1], target[:1]) + task.tally(output[1:], target[1:])
    return {name: float(value) for name, value in task.measures(tally).items()}


def test_segmentation_is_its_transcription() -> None:
    output, unknown = drawn(CLASSES, 0), ignored(1)
    labels = torch.randint(CLASSES - 1, unknown.shape, generator=torch.Generator().manual_seed(2)).double()
    target = labels.masked_fill(unknown, -1)
    rows, truth = pixels(output, ~unknown), pixels(target, ~unknown)[:, 0].astype(int)
    likelihood = np.exp(rows)[np.arange(len(rows)), truth] / np.exp(rows).sum(1)
    task = Segmentation(CLASSES)
    assert task.loss(output, target).item() == pytest.approx(-np.log(likelihood).mean())
    guess = rows.argmax(1)
    shares = []
    for k in range(CLASSES):
        either = (guess == k) | (truth == k)
        if either.any():
            shares.append(((guess == k) & (truth == k)).sum() / either.sum())
    wanted = {"score": np.mean(shares), "miou": np.mean(shares), "pixel_accuracy": (guess == truth).mean()}
    assert found(task, output, target) == pytest.approx(wanted)
    assert torch.equal(task.prediction(output), output.argmax(1, keepdim=True))


def test_a_class_that_is_neither_there_nor_predicted_does_not_count() -> None:
    output = torch.zeros(1, CLASSES, 1, 2, dtype=torch.float64)
    output[0, 1] = 1.0
    target = torch.tensor([[[[1.0, 2.0]]]], dtype=torch.float64)
    tally = Segmentation(CLASSES).tally(output, target)
    assert float(Segmentation(CLASSES).measures(tally)["miou"]) == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize(("task", "invalid"), [(Depth(1), 0.0), (Disparity(1), -1.0)])
def test_depth_and_disparity_are_their_transcription(task: PixelTask, invalid: float) -> None:
    unknown = ignored(3)
    target = drawn(1, 4).abs().masked_fill(unknown, invalid)
    output = target * (1 + 0.3 * drawn(1, 5))
    found_, true = pixels(output, ~unknown)[:, 0], pixels(target, ~unknown)[:, 0]
    error = np.abs(found_ - true)
    assert task.loss(output, target).item() == pytest.approx(error.mean())
    near = (found_ > 0) & (found_ / true < 1.25) & (true / found_ < 1.25)
    wanted = {"score": near.mean(), "absolute_error": error.mean(), "relative_error": (error / true).mean()}
    assert found(task, output, target) == pytest.approx(wanted)


def test_a_disparity_of_zero_is_valid_and_has_no_relative_error() -> None:
    output, target = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    tally = Disparity(1).tally(output, target)
    measures = {name: float(value) for name, value in Disparity(1).measures(tally).items()}
    assert measures == pytest.approx({"score": 0.0, "absolute_error": 1.5, "relative_error": 0.5})


@pytest.mark.parametrize("form", ["cosine", "l1"])
def test_normals_are_their_transcription(form: str) -> None:
    unknown = ignored(6)
    truth = torch.nn.functional.normalize(drawn(3, 7), dim=1)
    target = truth.masked_fill(unknown, 0)
    output = 2 * truth + 0.4 * drawn(3, 8)
    n, m = pixels(output, ~unknown), pixels(target, ~unknown)
    n = n / np.linalg.norm(n, axis=1, keepdims=True)
    cosine = (n * m).sum(1)
    loss = (1 - cosine).mean() if form == "cosine" else np.abs(n - m).sum(1).mean()
    task = Normals(3, form)
    assert task.loss(output, target).item() == pytest.approx(loss, rel=1e-4)
    angle = np.degrees(np.arccos(cosine))
    shares = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
    wanted = {name: (angle < limit).mean() for name, limit in shares.items()}
    wanted |= {"score": wanted["within_11"], "mean_angle": angle.mean()}
    measures = found(task, output, target)
    median = measures.pop("median_angle")
    assert measures == pytest.approx(wanted)
    assert np.sort(angle)[len(angle) // 2 - 1] - 0.01 <= median <= np.sort(angle)[len(angle) // 2] + 0.01


def test_small_angles_are_exact_in_single_precision() -> None:
    """Where the arc cosine of a float32 has an error of 0.02°."""
    angles = np.radians([0.005, 0.1, 1.0, 179.0])
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 4)
    output = torch.tensor(np.stack([np.sin(angles), 0 * angles, np.cos(angles)]), dtype=torch.float32).view(1, 3, 1, 4)
    measures = Normals(3).measures(Normals(3).tally(output, target))
    assert float(measures["mean_angle"]) == pytest.approx(np.degrees(angles).mean(), abs=1e-4)


def test_noise_is_the_mean_absolute_difference() -> None:
    output, target = drawn(1, 9), torch.rand(SHAPE[0], 1, *SHAPE[1:], dtype=torch.float64)
    error = float(np.abs(output.numpy() - target.numpy()).mean())
    assert Noise(1).loss(output, target).item() == pytest.approx(error)
    assert found(Noise(1), output, target) == pytest.approx({"score": 1 - error, "absolute_error": error})


INVALID = {"segmentation": -1.0, "depth": 0.0, "disparity": -1.0, "normals": 0.0}


@pytest.mark.parametrize("kind", INVALID)
def test_pixels_that_nothing_is_known_of_have_no_part(kind: str) -> None:
    """Whatever is predicted for them. Where all pixels are unknown, the loss is 0 with a gradient of 0."""
    task = KINDS[kind](3 if kind in ("segmentation", "normals") else 1)
    target = torch.full((2, 3 if kind == "normals" else 1, 4, 4), INVALID[kind])
    target[0, 0] = 1.0
    output = torch.rand(2, task.channels, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(output, target), output)
    assert gradient[0].any() and not gradient[1].any()
    other = output.detach().clone()
    other[1] = 7 * torch.randn_like(other[1])
    assert torch.equal(task.loss(output, target), task.loss(other, target))
    assert torch.equal(task.tally(output, target), task.tally(other, target))
    (nothing,) = torch.autograd.grad(task.loss(output[1:], target[1:]), output)
    assert not nothing.any() and task.loss(output[1:], target[1:]).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_a_share_and_comes_first(kind: str) -> None:
    """For a perfect prediction the score is 1, and Δ_MTL's measure is the best there can be."""
    task = KINDS[kind](3 if kind in ("segmentation", "normals") else 1)
    labels = torch.randint(3, (2, 1, 4, 4))
    target = {
        "segmentation": labels.float(),
        "normals": torch.nn.functional.normalize(torch.rand(2, 3, 4, 4), dim=1),
    }.get(kind, torch.rand(2, 1, 4, 4) + 0.1)
    output = (
        torch.nn.functional.one_hot(labels.squeeze(1), 3).movedim(-1, 1).float() if kind == "segmentation" else target
    )
    measures = {name: float(value) for name, value in task.measures(task.tally(output, target)).items()}
    assert next(iter(measures)) == "score" and measures["score"] == pytest.approx(1)
    name, less = task.compared
    assert measures[name] == pytest.approx(0 if less else 1, abs=1e-3)


def test_a_prediction_that_is_not_finite_breaks_no_measure() -> None:
    """Training reports it by name; counting must not fail on it first."""
    for kind, cls in KINDS.items():
        task = cls(3 if kind in ("segmentation", "normals") else 1)
        target = torch.ones(1, 3 if kind == "normals" else 1, 2, 2)
        task.measures(task.tally(torch.full((1, task.channels, 2, 2), torch.nan), target))


def test_angles_without_valid_pixels_are_not_a_number() -> None:
    task, nothing = Normals(3), torch.zeros(1, 3, 2, 2)
    measures = task.measures(task.tally(torch.rand(1, 3, 2, 2), nothing))
    assert all(value.isnan() for value in measures.values())
