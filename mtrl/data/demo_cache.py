"""Memory-mapped training samples made from demonstrations, so that training never decodes an image.

A cache is a folder with one folder for each task, which holds `facts.json` and one raw file for each array. A task is
written to another folder, which is renamed when it is complete. Several processes may therefore write different tasks,
and the cache stays as it was if the writing of a task is interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.errors import UserError, expected, reading
from mtrl.core.records import read_json
from mtrl.data.demos import Demo, Frame, canonical_quaternion, decision_frames, keyframes
from mtrl.data.depth import shrink

FORMAT = 1
_FACTS = "facts.json"


class KeyframeObservation(NamedTuple):
    """What a policy observes: C cameras of H × W pixels, and the gripper."""

    rgb: Tensor
    """(T, B, C, H, W, 3) uint8"""
    depth: Tensor
    """(T, B, C, H, W): metres along the optical axis."""
    intrinsics: Tensor
    """(T, B, C, 3, 3)"""
    extrinsics: Tensor
    """(T, B, C, 4, 4): camera to world."""
    pose: Tensor
    """(T, B, 7): the current gripper pose, xyz in metres and unit quaternion xyzw with w ≥ 0."""
    gripper: Tensor
    """(T, B): 1 open, 0 closed."""
    stage: Tensor
    """(T, B) int64: the number of keyframes reached so far."""

    def to(self, device: torch.device | str) -> KeyframeObservation:
        return KeyframeObservation(*(t.to(device, non_blocking=True) for t in self))


class KeyframeBatch(NamedTuple):
    """Observations, and the keyframes to which the expert moved next."""

    observation: KeyframeObservation
    target_pose: Tensor
    """(T, B, 7): like `KeyframeObservation.pose`."""
    target_gripper: Tensor
    """(T, B): 1 open, 0 closed."""
    importance: Tensor
    """(T, B): weights of the samples' losses; 1 if all samples are equally likely to be drawn."""

    def to(self, device: torch.device | str) -> KeyframeBatch:
        others = (t.to(device, non_blocking=True) for t in self[1:])
        return KeyframeBatch(self.observation.to(device), *others)  # type: ignore[arg-type]


def _layout(cameras: int, size: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """name -> (dtype, shape of one sample)."""
    return {
        "rgb": (np.uint8, (cameras, size, size, 3)),
        "depth": (np.float32, (cameras, size, size)),
        "intrinsics": (np.float32, (cameras, 3, 3)),
        "extrinsics": (np.float32, (cameras, 4, 4)),
        "pose": (np.float32, (7,)),
        "gripper": (np.float32, ()),
        "stage": (np.int64, ()),
        "target_pose": (np.float32, (7,)),
        "target_gripper": (np.float32, ()),
        "demo": (np.int64, ()),
    }


def observe(frame: Frame, cameras: Sequence[str], size: int, name: str = "the current frame") -> dict[str, Any]:
    """One frame's arrays for a `KeyframeObservation`, without T and B: all of its fields except `stage`.

    size: pixels along a side of the square images, to which larger images are shrunk. name: the frame's name in errors.

    Raises:
        UserError: a camera's image, depth or model is missing, or an image is not square or its side is not a multiple
            of `size`.
    """
    views = []
    for camera in cameras:
        image = frame.images.get(camera)
        if image is None or image.depth is None or camera not in frame.cameras:
            wanted = f"in the frame with its colours, depth and model ({name})"
            raise expected(f"Camera {camera}", wanted, sorted(frame.images))
        views.append(shrink(image, frame.cameras[camera], size, f"Picture of camera {camera} in {name}"))
    position, quaternion = np.split(np.asarray(frame.gripper_pose), [3])
    return {
        "rgb": np.stack([image.rgb for image, _ in views]),
        "depth": np.stack([np.asarray(image.depth, np.float32) for image, _ in views]),
        "intrinsics": np.stack([np.asarray(camera.intrinsics, np.float32) for _, camera in views]),
        "extrinsics": np.stack([np.asarray(camera.extrinsics, np.float32) for _, camera in views]),
        "pose": np.concatenate([position, canonical_quaternion(quaternion)]).astype(np.float32),
        "gripper": np.float32(frame.gripper_open > 0.5),
    }


def samples(demo: Demo, cameras: Sequence[str], size: int, name: str = "the demonstration") -> list[dict[str, Any]]:
    """One sample for each stage of a demonstration: the observation at its decision frame, and the keyframe after it.

    name: the demonstration's name in errors.

    Raises:
        UserError: an image does not fit (see `observe`).
    """
    keys = keyframes(demo)
    made = []
    for stage, (now, target) in enumerate(zip(decision_frames(keys), keys, strict=True)):
        goal = demo.frames[target]
        position, quaternion = np.split(np.asarray(goal.gripper_pose), [3])
        sample = observe(demo.frames[now], cameras, size, f"frame {now} of {name}")
        sample["stage"] = np.int64(stage)
        sample["target_pose"] = np.concatenate([position, canonical_quaternion(quaternion)])
        sample["target_gripper"] = np.float32(goal.gripper_open > 0.5)
        made.append(sample)
    return made


class CacheWriter:
    """Writes one task's demonstrations to a cache. They replace those that the cache already has of this task.

    It is used in a `with` block. If the block raises, the cache stays as it was.

        with CacheWriter(folder, "stack_wine", POLICY_CAMERAS, 64) as writer:
            writer.add(demo)
    """

    def __init__(
        self, folder: Path, task: str, cameras: Sequence[str], size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        """size: pixels along a side of the square images; facts: the demonstrations' origin, in JSON's types."""
        self.path, self.cameras, self.size = Path(folder) / task, tuple(cameras), size
        self._facts = {"format": FORMAT, "task": task, "cameras": list(cameras), "size": size, **(facts or {})}
        self._layout = _layout(len(self.cameras), size)
        self._aside = self.path.with_name(f".{task}.partial")
        self._new: list[Path] = []
        self._files: dict[str, BinaryIO] = {}
        self._keyframes: list[int] = []

    def __enter__(self) -> CacheWriter:
        foreign = self.path.is_symlink() or (self.path.exists() and not self.path.is_dir())
        foreign |= self.path.is_dir() and any(self.path.iterdir()) and not (self.path / _FACTS).exists()
        if foreign:
            raise expected(f"Folder {self.path}", "new, or a cache, which is then replaced", "something else")
        shutil.rmtree(self._aside, ignore_errors=True)
        self._new = [folder for folder in self._aside.parents if not folder.exists()]
        self._aside.mkdir(parents=True)
        self._files = {name: (self._aside / f"{name}.bin").open("wb") for name in self._layout}
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self._files.values():
                file.close()
            shutil.rmtree(self._aside, ignore_errors=True)
            for folder in self._new:
                with contextlib.suppress(OSError):  # the folder may hold other tasks
                    folder.rmdir()

    def add(self, demo: Demo, name: str = "the demonstration") -> int:
        """Append the samples of a demonstration. Returns their number, which is the number of its keyframes.

        name: the demonstration's name in errors.

        Raises:
            UserError: an image is missing or has an unsuitable size, or an array has another shape.
        """
        made = samples(demo, self.cameras, self.size, name)
        for sample in made:
            sample["demo"] = np.int64(len(self._keyframes))
            for name, (kind, shape) in self._layout.items():
                array = np.asarray(sample[name], kind)
                if array.shape != shape:
                    raise expected(f"Array {name} of {self.path.name}", f"of shape {shape}", array.shape)
                self._files[name].write(array.tobytes())
        self._keyframes.append(len(made))
        return len(made)

    def _finish(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        facts = {**self._facts, "samples": sum(self._keyframes), "keyframes": self._keyframes}
        with (self._aside / _FACTS).open("w", encoding="utf-8") as file:
            json.dump(facts, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        old = self.path.with_name(f".{self.path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            os.replace(self.path, old)
        try:
            os.replace(self._aside, self.path)
        except BaseException:
            if old.exists():
                os.replace(old, self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def task_facts(folder: Path, task: str) -> dict[str, Any] | None:
    """The content of a task's `facts.json` in a cache; None if there is no such task.

    Raises:
        UserError: the file is damaged or malformed.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (file := Path(folder) / task / _FACTS).stat()
        facts = read_json(file, {"format": int, "cameras": [str], "size": int, "samples": int, "keyframes": [int]})
        if min(facts["keyframes"], default=0) < 0 or sum(facts["keyframes"]) != facts["samples"]:
            raise expected(f"File {file}", "one whose numbers of keyframes add up to its samples", facts["samples"])
        return facts
    return None


class DemoCache:
    """The memory-mapped samples of T tasks. `batch` gathers them without decoding."""

    def __init__(
        self, folder: Path | str, tasks: Sequence[str], cameras: Sequence[str], size: int, demos: int | None = None
    ) -> None:
        """size: pixels along a side of the images; demos: how many demonstrations of each task to use, from the first;
        all if None.

        Raises:
            UserError: a task is missing, empty or damaged, has fewer than `demos` demonstrations, or was written in
                another format, at another size or without one of the cameras.
        """
        self.folder, self.tasks, self.cameras, self.size = Path(folder), tuple(tasks), tuple(cameras), size
        found = [self._facts(task, demos) for task in self.tasks]
        self.counts = torch.tensor([sum(f["keyframes"][:demos]) for f in found])
        """(T,): the number of samples of each task."""
        self.stages = torch.tensor([max(f["keyframes"][:demos]) for f in found])
        """(T,): the largest number of keyframes in a demonstration of each task."""
        self._selected = [[f["cameras"].index(name) for name in self.cameras] for f in found]
        self._arrays = [self._mapped(task, f) for task, f in zip(self.tasks, found, strict=True)]

    def _facts(self, task: str, demos: int | None) -> dict[str, Any]:
        facts = task_facts(self.folder, task)
        if facts is None:
            raise UserError(f"Demonstrations of {task} should lie in {self.folder}. Found none (see `mtrl demos`).")
        if facts["format"] != FORMAT:
            raise expected(f"Cache {self.folder / task}", f"of format {FORMAT}", facts["format"])
        missing = [name for name in self.cameras if name not in facts["cameras"]]
        if missing or facts["size"] != self.size:
            wanted = f"with cameras {', '.join(self.cameras)} at {self.size} pixels"
            raise expected(f"Cache {self.folder / task}", wanted, f"{', '.join(facts['cameras'])} at {facts['size']}")
        if demos is not None and len(facts["keyframes"]) < demos:
            raise expected(f"Cache {self.folder / task}", f"of {demos} demonstrations", len(facts["keyframes"]))
        if not sum(facts["keyframes"][:demos]):
            raise expected(f"Cache {self.folder / task}", "with at least one sample", 0)
        return facts

    def _mapped(self, task: str, facts: dict[str, Any]) -> dict[str, NDArray[Any]]:
        arrays = {}
        for name, (kind, shape) in _layout(len(facts["cameras"]), self.size).items():
            path, whole = self.folder / task / f"{name}.bin", (facts["samples"], *shape)
            size = path.stat().st_size if path.exists() else 0
            wanted = math.prod(whole) * np.dtype(kind).itemsize
            if size != wanted:
                raise expected(f"File {path}", f"of {wanted} bytes", size)
            with reading(path, "a readable file"):
                array = arrays[name] = np.memmap(path, kind, "r", shape=whole)
            if name not in ("rgb", "depth") and not np.isfinite(array).all():
                raise expected(f"File {path}", "of finite numbers", "others")
            if name == "stage" and not 0 <= array.min() <= array.max() < max(facts["keyframes"]):
                raise expected(f"File {path}", "of stages that its demonstrations have", array.max())
        return arrays

    def batch(self, index: Tensor, importance: Tensor | None = None) -> KeyframeBatch:
        """The samples at the indexes (T, B) within their tasks. importance (T, B): their weights; 1 if not given."""
        rows = index.cpu().numpy()
        observation = KeyframeObservation(*(self._gather(name, rows) for name in KeyframeObservation._fields))
        pose, gripper = (self._gather(name, rows) for name in ("target_pose", "target_gripper"))
        importance = torch.ones(rows.shape) if importance is None else importance
        return KeyframeBatch(observation, pose, gripper, importance)

    def _gather(self, name: str, index: NDArray[np.int64]) -> Tensor:
        first = self._arrays[0][name]
        has_cameras = name in ("rgb", "depth", "intrinsics", "extrinsics")
        shape = (len(self.cameras), *first.shape[2:]) if has_cameras else first.shape[1:]
        batch = torch.empty((*index.shape, *shape), dtype=getattr(torch, first.dtype.name))
        out = batch.numpy()
        for t, (arrays, selected) in enumerate(zip(self._arrays, self._selected, strict=True)):
            if has_cameras and selected != list(range(arrays[name].shape[1])):
                out[t] = arrays[name][index[t][:, None], selected]
            else:
                np.take(arrays[name], index[t], axis=0, out=out[t])
        return batch
