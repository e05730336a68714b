"""What is read back from a video."""

from __future__ import annotations

from pathlib import Path


def frames_in(path: Path) -> int:
    import imageio_ffmpeg

    count = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    assert count is not None
    return count
