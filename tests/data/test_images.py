"""Crops, flips, normalisation and epochs of image tensors."""

from __future__ import annotations

import numpy as np
import torch

from mtrl.data.images import Epochs, ImageData, channel_statistics, crop_and_flip, normalised, task_images


def pool(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 2, 6, 5), generator=generator, dtype=torch.uint8)


def test_channel_statistics_are_numpys() -> None:
    images = pool(50)
    mean, deviation = channel_statistics(images)
    values = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean.flatten(), values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation.flatten(), values.std((0, 2, 3)), rtol=1e-6)
    plain = normalised(images, mean, deviation)
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


def test_every_crop_is_a_shifted_and_perhaps_mirrored_image() -> None:
    images = normalised(pool(40), *channel_statistics(pool(40))) + 10  # no zeros but the border's
    moved = crop_and_flip(images, torch.Generator().manual_seed(1), padding=2, flip=True)
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images, [2] * 4)
    kinds = set()
    for image, result in zip(padded, moved, strict=True):
        candidates = {
            (down, right, mirrored): view.flip(-1) if mirrored else view
            for down in range(5)
            for right in range(5)
            for view in [image[:, down : down + 6, right : right + 5]]
            for mirrored in (False, True)
        }
        found = [key for key, view in candidates.items() if torch.equal(view, result)]
        assert len(found) == 1
        kinds.add(found[0])
    assert len(kinds) > 15 and {k[2] for k in kinds} == {False, True}


def test_no_padding_and_no_flip_change_nothing() -> None:
    images = pool(5).float()
    assert torch.equal(crop_and_flip(images, torch.Generator(), padding=0, flip=False), images)
    task_axis = images.view(1, 5, 2, 6, 5)
    assert torch.equal(crop_and_flip(task_axis, torch.Generator(), padding=0, flip=False), task_axis)


def data(counts: tuple[int, ...] = (12, 7), *, shared: bool = False, flip: bool = False) -> ImageData:
    """Labels are the rows of the pool, so that a batch tells which images it holds."""
    images = pool(40)
    rows, begin = [], 0
    for count in counts:
        rows.append(torch.arange(begin, begin + count))
        begin += count
    labels = rows if not shared else [rows[0], rows[0] + 100]
    tasks = task_images(images, rows[:1] if shared else rows, labels)
    return ImageData(tasks, tasks, *channel_statistics(images), 1 if flip else 0, flip)


def test_an_epoch_shows_every_image_of_the_largest_task_once() -> None:
    source = Epochs(data(), 4, seed=3)
    batches = [source.batch(k) for k in range(source.per_epoch)]
    assert source.per_epoch == 3
    labels = torch.cat([b.labels for b in batches], 1)
    assert sorted(labels[0].tolist()) == list(range(12))
    smaller = labels[1].tolist()
    assert set(smaller) == set(range(12, 19)) and max(map(smaller.count, smaller)) == 2
    assert labels[0].tolist() != torch.cat([source.batch(k).labels for k in range(3, 6)], 1)[0].tolist()


def test_images_and_labels_belong_together() -> None:
    source = Epochs(data(), 4, seed=3)
    batch = source.batch(1)
    expected = normalised(source.data.train.pool[batch.labels], source.data.mean, source.data.deviation)
    assert torch.equal(batch.images, expected)


def test_a_batch_is_a_function_of_its_number() -> None:
    """What an exact continuation needs: batch k is the same whatever came before it."""
    one, other = Epochs(data(flip=True), 4, seed=3), Epochs(data(flip=True), 4, seed=3)
    for k in range(5):
        one.batch(k)
    for k in (7, 5, 0):
        assert torch.equal(one.batch(k).images, other.batch(k).images)
    assert not torch.equal(one.batch(5).images, Epochs(data(flip=True), 4, seed=4).batch(5).images)


def test_tasks_that_share_images_see_them_once() -> None:
    batch = Epochs(data((12, 12), shared=True), 4, seed=3).batch(2)
    assert batch.images.shape[:2] == (1, 4)
    assert torch.equal(batch.labels[1], batch.labels[0] + 100)


def test_a_batch_larger_than_the_data_repeats_it() -> None:
    source = Epochs(data((3,)), 5, seed=0)
    assert source.per_epoch == 1
    assert set(source.batch(4).labels[0].tolist()) == {0, 1, 2}
