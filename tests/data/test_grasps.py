"""The part of a picture around a command, and the labels of attempts."""

from __future__ import annotations

import numpy as np
import torch

from mtrl.data.grasps import ANOTHER, NOTHING, WANTED, WINDOW, crops, labels

SIZE, HEIGHT, EDGE = 96, 0.77, 24


def projection() -> np.ndarray:
    """A camera at (0.7, 0.05, 1.4) that looks at the table at an angle."""
    position, target = np.array([0.7, 0.05, 1.4]), np.array([0.3, 0.0, 0.76])
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    intrinsics = np.array([[150.0, 0, (SIZE - 1) / 2], [0, 150.0, (SIZE - 1) / 2], [0, 0, 1]])
    return intrinsics @ np.concatenate([rotation, -(rotation @ position)[:, None]], 1)


def test_a_crop_shows_the_table_around_the_command_turned_as_the_gripper_is() -> None:
    """Each pixel's colour encodes its place on the table. So a crop's colours tell which places it shows."""
    camera = projection()
    plane = camera[:, [0, 1]], camera[:, 2] * HEIGHT + camera[:, 3]
    homography = np.linalg.inv(np.column_stack(plane))
    row, column = np.mgrid[:SIZE, :SIZE]
    place = np.stack([column, row, np.ones_like(row)], -1) @ homography.T
    place = place[..., :2] / place[..., 2:]
    picture = np.stack([(place[..., 0] - 0.1) * 500, (place[..., 1] + 0.25) * 500], 0).clip(0, 255).round()
    commands = np.array([[0.3, 0.0, 0.0], [0.28, 0.04, 0.7], [0.33, -0.05, -1.2]])
    found = crops(torch.from_numpy(picture).to(torch.uint8)[None], torch.from_numpy(commands)[None],
                  torch.from_numpy(camera), HEIGHT, EDGE)[0].double().numpy()  # fmt: skip
    offsets = WINDOW * ((np.arange(EDGE) + 0.5) / EDGE - 0.5)
    for cut, (x, y, turn) in zip(found, commands, strict=True):
        for i in range(0, EDGE, 5):
            for j in range(0, EDGE, 5):
                rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                there = np.array([x, y]) + rotation @ [offsets[i], offsets[j]]
                np.testing.assert_allclose(cut[:, i, j], (there - [0.1, -0.25]) * 500, atol=1.5)


def test_labels_distinguish_the_wanted_object_others_and_none() -> None:
    grasped, wanted = torch.tensor([-1, 2, 2, -1]), torch.tensor([2, 2, 0, 0])
    assert labels(grasped, wanted).tolist() == [NOTHING, WANTED, ANOTHER, NOTHING]
