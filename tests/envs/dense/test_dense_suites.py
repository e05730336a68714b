"""Benchmarks for pixels: what scenes show is where it is said to be; published files are read, damaged ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtrl.core.errors import UserError
from mtrl.envs import SUITES
from mtrl.envs.dense import cityscapes, scenes
from mtrl.envs.keyframes.cameras import camera_model
from mtrl.envs.keyframes.episode import Episode
from mtrl.envs.keyframes.rays import Seen, look
from mtrl.envs.keyframes.scene import AUDIENCE, TABLE
from mtrl.envs.keyframes.world import World
from tests.support.dense_files import CITY, NYU, write_cityscapes, write_nyuv2

SIZE = 32


def suite(kind: str, root: Path, **options: Any) -> Any:
    return SUITES.build(SUITES.config_class(kind)(root=str(root), **options))


def begun(task: str) -> World:
    episode = Episode(task, 1, "demos")
    episode.begin(0)
    return episode.world


def seen_from(world: World, position: tuple[float, float, float], target: tuple[float, float, float]) -> Seen:
    world.place_camera(AUDIENCE, np.array(position), np.array(target))
    return look(world, AUDIENCE, SIZE)


@pytest.mark.parametrize("task", ["pick_and_lift", "take_umbrella_out_of_umbrella_stand", "reach_target"])
def test_normals_are_those_of_the_depth_on_every_shape(task: str) -> None:
    """Exact where four neighbours are of one flat face; close on round ones. They point at the camera."""
    world = begun(task)
    seen = seen_from(world, (0.0, -0.6, 1.5), (0.3, 0.0, 0.85))
    camera = camera_model(world, AUDIENCE, SIZE)
    focal, centre = -camera.intrinsics[0, 0], camera.intrinsics[0, 2]
    v, u = np.mgrid[:SIZE, :SIZE]
    points = np.stack([(u - centre) / focal, (centre - v) / focal, -np.ones(u.shape)], -1) * seen.depth[..., None]
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(down, across)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    inner = seen.geom[1:-1, 1:-1]
    neighbours = (seen.geom[1:-1, 2:], seen.geom[1:-1, :-2], seen.geom[2:, 1:-1], seen.geom[:-2, 1:-1])
    same = np.logical_and.reduce([inner == other for other in neighbours]) & (inner >= 0)
    cosine = (normal * seen.normal[1:-1, 1:-1]).sum(-1)[same]
    assert same.sum() > 500 and np.median(cosine) > 1 - 1e-6 and (cosine > 0.999).mean() > 0.97
    assert ((seen.normal * points).sum(-1)[seen.geom >= 0] < 0).all()


def test_the_table_is_where_it_is() -> None:
    """From straight above: its distance, its normal, and its class."""
    world = begun("push_button")
    seen = seen_from(world, (0.3, 0.45, TABLE + 0.4), (0.3001, 0.45, TABLE))
    table = world.model.geom("table").id
    assert (seen.geom == table).mean() > 0.9
    np.testing.assert_allclose(seen.depth[seen.geom == table], 0.4, atol=1e-3)
    np.testing.assert_allclose(seen.normal[seen.geom == table], [[0, 0, 1]] * (seen.geom == table).sum(), atol=1e-3)


def test_colours_and_rays_see_the_same_things(offscreen: str) -> None:
    """The rendered depth is that of the rays, and each class that has one colour has it in the picture."""
    from mtrl.envs.keyframes.cameras import Renderer

    world = begun("slide_block_to_target")
    world.place_camera(AUDIENCE, np.array([0.0, -0.5, 1.3]), np.array([0.3, 0.0, TABLE]))
    seen = look(world, AUDIENCE, SIZE)
    with Renderer(SIZE) as renderer:
        image = renderer.image(world, AUDIENCE)
    assert image.depth is not None
    both = (seen.geom >= 0) & (image.depth < 4.9)
    assert (np.abs(seen.depth - image.depth)[both] < 5e-3).mean() > 0.95


def test_every_class_is_in_some_scene_and_every_shape_has_one() -> None:
    tables = [scenes._classes(task, begun(task)) for task in scenes.TASKS]
    assert all((table >= 0).all() for table in tables)
    assert set(np.concatenate(tables).tolist()) == set(range(len(scenes.CLASSES)))


def test_scenes_are_made_once_and_read_from_then_on(
    tmp_path: Path, offscreen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"image_size": SIZE, "train_scenes": 12, "test_scenes": 3, "noise_task": True}
    first = suite("scenes", tmp_path, **options).data
    assert (len(first.train), len(first.test)) == (12, 3)
    monkeypatch.setattr(scenes, "draw", None)
    again = suite("scenes", tmp_path, **options)
    for part, other in ((first.train, again.data.train), (first.test, again.data.test)):
        for a, b in zip(part[1].targets, other[1].targets, strict=True):
            assert torch.equal(a, b)
    assert again.tasks == ("segmentation", "depth", "normals", "noise") and again.spec.uncounted == ("noise",)
    assert not torch.equal(first.train[0].image, first.test[0].image)
    picture = first.train[5]
    known = picture.targets[0] >= 0
    assert torch.equal(known, picture.targets[1] > 0) and known.float().mean() > 0.5
    torch.testing.assert_close(
        picture.targets[2].norm(dim=0)[known[0]], torch.ones(int(known.sum())), atol=1e-3, rtol=0
    )
    assert [picture.targets[0].shape, picture.targets[2].shape] == [(1, SIZE, SIZE), (3, SIZE, SIZE)]
    only = suite("scenes", tmp_path, **options, tasks=["noise", "depth"], train_size=4).data
    assert len(only.train) == 4 and len(only.train[0].targets) == 2
    assert list(tmp_path.rglob(".*")) == [], "nothing is left of what was written aside"


def test_a_damaged_cache_is_refused_by_name(tmp_path: Path, offscreen: str) -> None:
    options: dict[str, Any] = {"image_size": 16, "train_scenes": 1, "test_scenes": 1}
    assert len(suite("scenes", tmp_path, **options).data.train) == 1
    file = next(tmp_path.rglob("demos-*/depth.npy"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"depth\.npy should be an intact array") as caught:
        _ = suite("scenes", tmp_path, **options).data
    assert "\n" not in str(caught.value)


def test_nyuv2_is_read_as_published(tmp_path: Path) -> None:
    first = write_nyuv2(tmp_path)
    made = suite("nyuv2", tmp_path, size=list(NYU))
    data = made.data
    assert made.spec.channels == (13, 1, 3) and (len(data.train), len(data.test)) == (2, 2)
    picture = data.train[0]
    np.testing.assert_allclose(picture.image, first["image"].transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_array_equal(picture.targets[0][0], first["label"])
    np.testing.assert_allclose(picture.targets[2], first["normal"].transpose(2, 0, 1), rtol=1e-6)


def test_cityscapes_is_read_as_published(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    made = suite("cityscapes", tmp_path, size=list(CITY), crop=[])
    picture = made.data.train[0]
    assert made.tasks == ("segmentation", "parts", "disparity") and made.spec.channels == (19, 10, 1)
    torch.testing.assert_close(picture.image, torch.full((3, *CITY), 0.2))
    assert picture.targets[0][0, 0].tolist() == [-1, 0, 1, 18, 2, -1]
    assert picture.targets[1][0, 0].tolist() == [0, 0, 2, 4, 9, 0]
    assert picture.targets[2][0, 0].tolist() == [-1, 0, 1 / 1024, 1, 2, 65534 / 1024]


def test_augmentation_is_that_of_the_published_code() -> None:
    """create_dataset.py of lorenmt/auto-lambda: NYUv2 is enlarged and cut to its size, CityScapes only cut."""
    nyuv2, city = (SUITES.config_class(kind)() for kind in ("nyuv2", "cityscapes"))
    assert nyuv2.flip and nyuv2.scales == [1.0, 1.2, 1.5] and nyuv2.crop in ([], nyuv2.size)
    assert city.flip and city.scales == [1.0] and city.crop == [256, 256]


def test_the_nineteen_classes_are_numbered_in_order() -> None:
    found = cityscapes.classes_of(np.arange(256))
    assert found[found >= 0].tolist() == list(range(19)) and (found[[0, 6, 9, 18, 29, 30, 255]] == -1).all()


DAMAGE: dict[str, tuple[str, str, Any, str]] = {
    "cut short": ("nyuv2", "depth/1.npy", lambda p: p.write_bytes(p.read_bytes()[:-4]), "an intact array"),
    "no array": ("nyuv2", "image/0.npy", lambda p: p.write_bytes(b"x" * 40), "an intact array"),
    "a pickle": ("nyuv2", "image/0.npy", lambda p: np.save(p, np.array([{}], object)), "an intact array"),
    "another shape": ("nyuv2", "normal/1.npy", lambda p: np.save(p, np.zeros((8, 6, 3))), r"\(6, 8, 3\)"),
    "complex": ("nyuv2", "depth/0.npy", lambda p: np.save(p, np.zeros((6, 8), complex)), "of numbers"),
    "a class too many": ("nyuv2", "label/0.npy", lambda p: np.save(p, np.full(NYU, 13.0)), "from -1 to 12. Found 13"),
    "not finite": ("nyuv2", "depth/0.npy", lambda p: np.save(p, np.full(NYU, np.nan)), "finite"),
    "missing": ("nyuv2", "label/0.npy", lambda p: p.unlink(), "there. Found"),
    "cut short, too": ("cityscapes", "depth/0.png", lambda p: p.write_bytes(p.read_bytes()[:-30]), "an intact PNG"),
    "another size": (
        "cityscapes", "seg/0.png", lambda p: Image.new("L", (5000, 5000)).save(p), "4 x 6 pixels. Found 'L of 5000",
    ),
    "in colour": ("cityscapes", "seg/0.png", lambda p: Image.new("RGB", (CITY[1], CITY[0])).save(p), "L or P of"),
    "no picture": ("cityscapes", "part_seg/0.tif", lambda p: p.write_text("part"), "an intact TIFF"),
    "none": ("cityscapes", "image/0.png", lambda p: p.unlink(), "there. Found"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(damage: str, tmp_path: Path) -> None:
    kind, name, spoil, message = DAMAGE[damage]
    write_nyuv2(tmp_path)
    write_cityscapes(tmp_path)
    file = tmp_path / kind / "train" / name
    spoil(file)
    with pytest.raises(UserError, match=message) as caught:
        data = suite(kind, tmp_path, size=list(NYU if kind == "nyuv2" else CITY), crop=[]).data
        for number in range(len(data.train)):
            _ = data.train[number]
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_options_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    for option, value in {"scales": [0.5], "crop": [4], "size": [0, 3]}.items():
        with pytest.raises(UserError, match=f"benchmark.{option}"):
            suite("nyuv2", tmp_path, **{option: value})
    with pytest.raises(UserError, match="within 64 x 64"):
        suite("scenes", tmp_path, crop=[65, 64])
