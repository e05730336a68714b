"""Pictures, depth and camera models against ray casting, and against RLBench's own cameras."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from mtrl.data.demos import CAMERAS, rotation_matrix
from mtrl.data.rlbench_layout import episodes, read_demo
from mtrl.envs.keyframes.cameras import Renderer, camera_model, observe
from mtrl.envs.keyframes.episode import Episode
from mtrl.envs.keyframes.poses import Pose, down

REAL = Path(__file__).resolve().parents[4] / "shared" / "rlbench_demos"
SIZE = 64


def begun(task: str = "pick_and_lift") -> Episode:
    episode = Episode(task, 1, "demos")
    episode.begin(0)
    return episode


def points(depth: np.ndarray, extrinsics: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(H, W, 3), by RLBench's formula."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    x = (u - intrinsics[0, 2]) * depth / intrinsics[0, 0]
    y = (v - intrinsics[1, 2]) * depth / intrinsics[1, 1]
    return np.stack([x, y, depth], -1) @ extrinsics[:3, :3].T + extrinsics[:3, 3]


def cast(episode: Episode, origin: np.ndarray, towards: np.ndarray) -> float:
    """Metres from `origin` to what lies in the direction of the point `towards`, by MuJoCo's ray casting."""
    direction = (towards - origin) / np.linalg.norm(towards - origin)
    geom = np.zeros(1, np.int32)
    world = episode.world
    return mujoco.mj_ray(world.model, world.data, origin, direction, None, 1, -1, geom)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("task", ["pick_and_lift", "put_money_in_safe"])
def test_the_point_cloud_lies_where_rays_hit(task: str, offscreen: str) -> None:
    """Every pixel's point lies as far along its ray as ray casting says, save at the edges of shapes."""
    episode = begun(task)
    with Renderer(SIZE) as renderer:
        frame = observe(episode.world, CAMERAS, SIZE, renderer)
    for name in CAMERAS:
        depth, camera = frame.images[name].depth, frame.cameras[name]
        assert depth is not None and depth.dtype == np.float32
        cloud, origin = points(depth, camera.extrinsics, camera.intrinsics), camera.extrinsics[:3, 3].copy()
        rows = [cloud[v, u] for v in range(0, SIZE, 7) for u in range(0, SIZE, 7) if depth[v, u] < 4.9]
        errors = [abs(cast(episode, origin, point) - np.linalg.norm(point - origin)) for point in rows]
        assert len(rows) > 40 and np.median(errors) < 1e-3 and np.mean(np.array(errors) > 5e-3) < 0.06, name


def test_the_red_block_is_seen_where_it_is(offscreen: str) -> None:
    episode = begun()
    block = episode.world.pose("block").position
    with Renderer(128) as renderer:
        frame = observe(episode.world, CAMERAS, 128, renderer)
    for name in ("left_shoulder", "right_shoulder", "wrist", "overhead"):
        image, camera = frame.images[name], frame.cameras[name]
        assert image.depth is not None
        colours = image.rgb.astype(int)
        red = (colours[..., 0] > 120) & (colours[..., 1] < 70) & (colours[..., 2] < 70)
        cloud = points(image.depth, camera.extrinsics, camera.intrinsics)[red]
        top = cloud[cloud[:, 2] > block[2] + 0.02, :2]
        assert len(top) > 15 and np.abs(np.median(top, axis=0) - block[:2]).max() < 0.01, name


def test_pictures_do_not_depend_on_what_was_drawn_before(offscreen: str) -> None:
    """Scenes of three tasks in motion, drawn in turn by two renderers, look as they do to renderers of their own."""
    worlds = [begun(task).world for task in ("pick_and_lift", "stack_wine", "push_button")]
    with Renderer(SIZE) as renderer, Renderer(96) as another:
        for height in (1.4, 1.2, 1.0):
            for world in worlds:
                world.act(Pose(np.array([0.25, 0.0, height]), down()), True)
            mixed = [renderer.image(world, "wrist") for world in worlds]
            assert another.image(worlds[0], "front").rgb.shape == (96, 96, 3)
            for world, image in zip(worlds, mixed, strict=True):
                with Renderer(SIZE) as fresh:
                    alone = fresh.image(world, "wrist")
                assert (alone.rgb == image.rgb).all()
                assert alone.depth is not None and image.depth is not None and (alone.depth == image.depth).all()


def test_cameras_stand_where_rlbench_s_stand() -> None:
    if not REAL.is_dir():
        pytest.skip("RLBench's demonstrations are not at hand.")
    real = read_demo(episodes(REAL, "reach_target")[0], (), frames=()).frames[0]
    world = begun().world
    for name in CAMERAS:
        found, wanted = camera_model(world, name, 128), real.cameras[name]
        assert np.allclose(found.intrinsics[:2, :2], wanted.intrinsics[:2, :2], atol=0.01), name
        ours, theirs = found.extrinsics, wanted.extrinsics
        if name == "wrist":
            grippers = np.eye(4), np.eye(4)
            gripper = world.gripper
            for pose, (position, quaternion) in zip(
                grippers,
                (gripper, (real.gripper_pose[:3], real.gripper_pose[3:])),
                strict=True,
            ):
                pose[:3, :3], pose[:3, 3] = rotation_matrix(np.asarray(quaternion)), position
            ours, theirs = (np.linalg.inv(g) @ c for g, c in zip(grippers, (ours, theirs), strict=True))
        assert np.allclose(ours, theirs, atol=2e-3), name
