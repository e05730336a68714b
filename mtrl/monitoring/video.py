"""Short videos of several tasks side by side. Needs the extra `video` (imageio-ffmpeg, Pillow)."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.core.errors import UserError, missing

Frame = NDArray[np.uint8]
"""(H, W, 3), with the first row at the top."""

MACRO_BLOCK = 16
"""Pixels. The encoder would scale pictures whose sides are not multiples of this."""
_CAPTION_HEIGHT = 16
_RUNNING = (255, 255, 255)
_FINAL = {True: (90, 230, 90), False: (255, 110, 110), None: _RUNNING}


class RenderingUnavailable(UserError):
    """Raised if a package or driver that pictures or videos need is missing."""


@dataclass(frozen=True)
class Clip:
    """One task's part of a video."""

    title: str
    frames: Sequence[Frame]
    """At least one frame, all of one size. The last one stays until the longest clip ends."""
    solved: bool | None
    """Whether the task was solved, shown by the colour of the title from the last frame on; None if unknown."""


def check_writer() -> None:
    """Raise `RenderingUnavailable` unless videos can be written here."""
    try:
        importlib.import_module("PIL.ImageDraw")
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise RenderingUnavailable(str(missing("The video writer", "imageio-ffmpeg", "video"))) from error


def tile(clips: Sequence[Clip]) -> Iterator[Frame]:
    """Yield frames with all clips, row by row, on a nearly square grid. A clip's title covers the top of its cell.

    The cells have the size of the largest clip, rounded up to a multiple of `MACRO_BLOCK`.
    """
    sizes = zip(*(clip.frames[0].shape[:2] for clip in clips), strict=True)
    height, width = (MACRO_BLOCK * math.ceil(max(size) / MACRO_BLOCK) for size in sizes)
    columns = math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    running = [_caption(clip.title, width, _RUNNING) for clip in clips]
    final = [_caption(clip.title, width, _FINAL[clip.solved]) for clip in clips]
    for step in range(max(len(clip.frames) for clip in clips)):
        picture = np.zeros((rows * height, columns * width, 3), np.uint8)
        for i, clip in enumerate(clips):
            ended = step >= len(clip.frames) - 1
            row, column = divmod(i, columns)
            frame = clip.frames[-1 if ended else step]
            tile = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
            tile[: frame.shape[0], : frame.shape[1]] = frame
            tile[:_CAPTION_HEIGHT] = (final if ended else running)[i]
        yield picture


def reduced(frame: Frame, side: int) -> Frame:
    """Shrink a frame until both sides have at most `side` pixels. Each new pixel is the mean of a square of pixels."""
    image: Any = importlib.import_module("PIL.Image").fromarray(np.asarray(frame, np.uint8))
    return np.asarray(image.reduce(math.ceil(max(image.size) / side)))


def write_video(path: Path, frames: Iterable[Frame], frames_per_second: int) -> Path:
    """Write an H.264 mp4 whose last frame stays for a second. The file appears under its name when it is complete.

    Raises:
        RenderingUnavailable: the extra `video` is not installed.
        ValueError: there are no frames.
    """
    check_writer()
    ffmpeg: Any = importlib.import_module("imageio_ffmpeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part.mp4")
    writer, frame = None, None
    try:
        for frame in frames:
            if writer is None:
                height, width, _ = frame.shape
                writer = ffmpeg.write_frames(str(part), (width, height), fps=frames_per_second, quality=6)
                writer.send(None)
            writer.send(np.ascontiguousarray(frame))
        if writer is None or frame is None:
            raise ValueError("A video needs frames.")
        for _ in range(frames_per_second):
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        os.replace(part, path)
    finally:
        if writer is not None:
            writer.close()
        part.unlink(missing_ok=True)
    return path


def _caption(text: str, width: int, colour: tuple[int, int, int]) -> Frame:
    """The text on black, (_CAPTION_HEIGHT, width, 3)."""
    image: Any = importlib.import_module("PIL.Image").new("RGB", (width, _CAPTION_HEIGHT))
    importlib.import_module("PIL.ImageDraw").Draw(image).text((4, 2), text, fill=colour)
    return np.asarray(image)
