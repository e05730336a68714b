"""What is read back from a video."""

from __future__ import annotations

from pathlib import Path


def frames_in(path: Path) -> int:
    import imageio_ffmpeg

    return imageio_ffmpeg.count_frames_and_secs(str(path))[0] or 0
