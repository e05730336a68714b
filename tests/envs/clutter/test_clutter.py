"""Cluttered tables: they repeat, grasps are simulated, and pictures match the projection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl.data.grasps import WANTED
from mtrl.envs import SUITES
from mtrl.envs.clutter.scene import DOMAINS, GRASP_HEIGHT, OBJECTS, Clutter
from mtrl.envs.keyframes.cameras import Renderer
from mtrl.envs.keyframes.poses import yaw_of
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable

SIZE = 96


@pytest.fixture
def renderer() -> Renderer:
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    return Renderer(SIZE)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_grasp_across_a_block_lifts_it_and_one_in_an_empty_corner_lifts_nothing(domain: str) -> None:
    clutter, lifted = Clutter(domain, SIZE), 0
    number = OBJECTS.index("block")
    for table in range(4):
        clutter.begin(0, table)
        turn = yaw_of(clutter.world.pose("block").quaternion)
        turn = (turn + np.pi / 2) % np.pi - np.pi / 2
        lifted += clutter.grasp(np.array([*clutter.places[number], turn])) == number
        corners = np.array([(x, y) for x in (0.16, 0.44) for y in (-0.16, 0.16)])
        gaps = np.linalg.norm(corners[:, None] - clutter.places, axis=-1).min(1)
        if gaps.max() > 0.12:
            assert clutter.grasp(np.array([*corners[gaps.argmax()], 0.0])) == -1
    assert lifted >= 3, "neighbours may stand in the way once"


@pytest.mark.parametrize("domain", DOMAINS)
def test_masks_are_where_the_projection_puts_the_objects(domain: str, renderer: Renderer) -> None:
    clutter, right = Clutter(domain, SIZE), 0
    with renderer:
        for table in range(3):
            clutter.begin(0, table)
            view = clutter.view(renderer)
            for number in (OBJECTS.index(name) for name in ("long", "block", "can", "plate")):  # solid in the middle
                point = clutter.projection @ np.array([*clutter.places[number], GRASP_HEIGHT, 1])
                column, row = np.round(point[:2] / point[2]).astype(int)
                right += view.objects[row, column] == number
    assert right >= 11, "of 12; an object may hide another"


def test_the_domains_pictures_differ_and_repeat(renderer: Renderer) -> None:
    seen = []
    with renderer:
        for domain in DOMAINS:
            views = []
            for _ in range(2):
                clutter = Clutter(domain, SIZE)
                clutter.begin(3, 1)
                views.append(clutter.view(renderer))
            assert np.array_equal(views[0].rgb, views[1].rgb) and np.array_equal(views[0].objects, views[1].objects)
            seen.append(views[0])
    source, target = (view.rgb[view.objects < 0].astype(float) for view in seen)
    assert source.mean() - target.mean() > 50, "the target's table is darker"
    assert target.std(0).min() > 3 * source.std(0).max(), "and neither plain nor without noise"
    assert (seen[1].objects >= 0).mean() < 0.8 * (seen[0].objects >= 0).mean(), "its field of view is wider"


def test_attempts_are_stored_with_their_labels(tmp_path: Path, renderer: Renderer) -> None:
    renderer.close()
    options = {"root": str(tmp_path), "train_scenes": 2, "test_scenes": 1, "attempts": 3}
    suite = SUITES.build(SUITES.config_class("clutter")(**options))
    data = suite.data
    assert data.train.counts.tolist() == [6, 6] and data.test.counts.tolist() == [3, 3]
    assert data.train.pool.shape == (12, 4, 24, 24)
    for domain in range(2):
        arrays = suite.attempts(domain, "train")
        wanted = (arrays["grasped"] >= 0) & (arrays["grasped"] == arrays["wanted"])
        assert np.array_equal(data.train.labels[domain].numpy() == WANTED, wanted.flatten())
        found = [suite.execute(domain, 0, c) for c in suite.attempts(domain, "test")["command"][0]]
        assert found == suite.attempts(domain, "test")["grasped"][0].tolist(), "a table is the same when begun again"
    again = SUITES.build(SUITES.config_class("clutter")(**options)).data
    assert torch.equal(again.train.pool, data.train.pool)
