"""Reads and writes RLBench's folders of demonstrations, without RLBench.

There are two layouts. In <root>/<task>/variation<N>/episodes/episode<M>/, an episode has `low_dim_obs.pkl` and
`<camera>_{rgb,depth,mask}/<frame>.png`, and `variation_descriptions.pkl` is beside `episodes/`. In
<root>/<task>/all_variations/episodes/episode<M>/, each episode has `variation_number.pkl` and
`variation_descriptions.pkl` of its own.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.core.errors import UserError, expected
from mtrl.data import safe_pickle
from mtrl.data.demos import CameraModel, Demo, Frame, Image
from mtrl.data.depth import pack_depth, unpack_depth
from mtrl.data.png import read_png, write_png
from mtrl.data.rlbench_pickle import read_low_dim, write_low_dim

_MIXED = "all_variations"
LOW_DIM, DESCRIPTIONS, VARIATION = "low_dim_obs.pkl", "variation_descriptions.pkl", "variation_number.pkl"


def episodes(root: Path | str, task: str, variation: int | None = None) -> list[Path]:
    """The folders of a task's episodes, ordered by their numbers. variation: return only episodes of this variation.

    `all_variations` may repeat episodes of `variation<N>`. Such repeats, with the same `low_dim_obs.pkl`, are left out.
    Folders with other names, such as "episode1 (copy)", are ignored.

    Raises:
        UserError: there are none.
    """
    folder = Path(root) / task
    numbered = re.compile(rf"(variation\d+|{_MIXED})/episodes/episode\d+")
    paths = (p.relative_to(folder).as_posix() for p in folder.glob("*/episodes/*") if p.is_dir())
    found = [folder / name for name in paths if numbered.fullmatch(name)]
    apart = {_content(path) for path in found if path.parents[1].name != _MIXED}
    found = [path for path in found if path.parents[1].name != _MIXED or _content(path) not in apart]
    found = [path for path in found if variation is None or _variation(path) == variation]
    if not found:
        number = "<N>" if variation is None else variation
        raise expected(f"Folder {folder}", f"one with demonstrations (variation{number}/episodes/episode<M>)", "none")
    return sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path.relative_to(folder)))])


def _content(episode: Path) -> bytes | Path:
    """What identifies an episode: the digest of its `low_dim_obs.pkl`, or its folder if that file is missing."""
    file = episode / LOW_DIM
    return hashlib.sha256(file.read_bytes()).digest() if file.is_file() else episode


def read_demo(
    episode: Path | str,
    cameras: Sequence[str],
    *,
    frames: Sequence[int] | None = None,
    masks: bool = False,
) -> Demo:
    """Read an episode, with pictures only from the named cameras and only at `frames` (all if not given; () for none).

    masks: also read the cameras' masks.

    Raises:
        UserError: a file is missing or damaged, or was written by an RLBench before 1.1.0, which saved no camera
            models. The message names the file.
    """
    episode = Path(episode)
    made, seed = read_low_dim(episode / LOW_DIM)
    for i in range(len(made)) if frames is None else frames:
        for camera in cameras:
            made[i].images[camera] = _image(episode, camera, i, made[i], masks)
    task = episode.parents[2].name
    return Demo(task, made, _variation(episode), _descriptions(episode), seed)


def _image(episode: Path, camera: str, index: int, frame: Frame, masks: bool) -> Image:
    def path(kind: str) -> Path:
        return episode / f"{camera}_{kind}" / f"{index}.png"

    model = frame.cameras.get(camera)
    if model is None:
        raise UserError(
            f"File {episode / LOW_DIM} should hold the model of camera {camera}, which RLBench has written since "
            "1.1.0. Found none; without it there are no point clouds."
        )
    image = Image(
        read_png(path("rgb")),
        unpack_depth(read_png(path("depth")), model.near, model.far),
        _handles(read_png(path("mask"))) if masks else None,
    )
    for kind, pixels in (("depth", image.depth), ("mask", image.mask)):
        if pixels is not None and pixels.shape != image.rgb.shape[:2]:
            raise expected(f"File {path(kind)}", f"of size {image.rgb.shape[:2]}, as the colours are", pixels.shape)
    return image


def _handles(colours: Any) -> Any:
    """The object handles that a mask's colours encode: R + 256 G + 65536 B."""
    return colours.astype(np.int64) @ np.array([1, 256, 65536])


def _variation(episode: Path) -> int:
    """The variation's number, from the folder's name or the episode's own file; 0 if neither gives it."""
    if (found := re.fullmatch(r"variation(\d+)", episode.parents[1].name)) is not None:
        return int(found[1])
    try:
        return int(safe_pickle.load(episode / VARIATION))
    except (UserError, TypeError, ValueError):
        return 0


def _descriptions(episode: Path) -> list[str]:
    """The task in words; empty if the file is missing or holds something else."""
    for path in (episode / DESCRIPTIONS, episode.parents[1] / DESCRIPTIONS):
        try:
            found = safe_pickle.load(path, {})
        except UserError:
            continue
        if isinstance(found, list) and all(isinstance(text, str) for text in found):
            return found
    return []


def write_demo(demo: Demo, root: Path | str, episode: int, *, all_variations: bool = False) -> Path:
    """Write a demonstration whose frames all have pictures. Returns the episode's folder.

    RLBench's own `get_stored_demos` needs pictures from all five cameras in each frame.

    Raises:
        UserError: the episode's folder already exists.
    """
    folder = Path(root) / demo.task / (_MIXED if all_variations else f"variation{demo.variation}")
    path = folder / "episodes" / f"episode{episode}"
    if path.exists():
        raise expected(f"Folder {path}", "new", "one that exists")
    path.mkdir(parents=True)
    for index, frame in enumerate(demo.frames):
        for camera, image in frame.images.items():
            _write_image(path, camera, index, image, frame.cameras[camera])
    if all_variations:
        _write_pickle(path / VARIATION, demo.variation)
    _write_pickle((path if all_variations else folder) / DESCRIPTIONS, demo.descriptions)
    write_low_dim(demo, path / LOW_DIM)
    return path


def _write_image(episode: Path, camera: str, index: int, image: Image, model: CameraModel) -> None:
    kinds = {"rgb": image.rgb}
    if image.depth is not None:
        kinds["depth"] = pack_depth(image.depth, model.near, model.far)
    if image.mask is not None:
        kinds["mask"] = np.stack([image.mask >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    for kind, pixels in kinds.items():
        (episode / f"{camera}_{kind}").mkdir(exist_ok=True)
        write_png(episode / f"{camera}_{kind}" / f"{index}.png", pixels)


def _write_pickle(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))
