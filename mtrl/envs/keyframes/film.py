"""A short video of a policy, with all tasks side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from mtrl.core.config import check
from mtrl.core.types import FloatArray
from mtrl.data.demos import Frame
from mtrl.envs.keyframes.cameras import Renderer
from mtrl.envs.keyframes.envs import KeyframeCopies
from mtrl.envs.keyframes.episode import Episode
from mtrl.envs.keyframes.scene import AUDIENCE
from mtrl.envs.keyframes.world import FRAME, Listener
from mtrl.monitoring.video import MACRO_BLOCK, Clip, check_writer, tile, write_video
from mtrl.monitoring.video import Frame as Picture

Policy = Callable[[Sequence[Sequence[Frame]], int], FloatArray]
"""(frames T × 1, number of actions taken) -> actions (T, 1, 8)."""
_EVERY = 2
"""Simulated frames for each picture of the video."""


def film(policy: Policy, envs: KeyframeCopies, names: Sequence[str], path: Path, size: int = 240) -> dict[str, bool]:
    """Write an mp4 of one episode of each task. Returns {task: whether it was solved}.

    Args:
        envs: one copy of each of `names`. The environments stay open.
        size: pixels along each side of a task's square, a multiple of 16, at most `scene.PIXELS`.

    Raises:
        RenderingUnavailable: the video writer or offscreen OpenGL is missing. This is checked before the first episode.
        UserError: `size` is not a multiple of 16.
    """
    check(size >= MACRO_BLOCK and size % MACRO_BLOCK == 0, "size", f"a multiple of {MACRO_BLOCK}", size)
    check_writer()
    episodes = [row[0] for row in envs.episodes]
    pictures: list[list[Picture]] = [[] for _ in names]
    with Renderer(size) as renderer:
        frames, step = envs.reset(), 0
        for episode, shots in zip(episodes, pictures, strict=True):  # even an invalid first action gives a clip
            shots.append(renderer.image(episode.world, AUDIENCE).rgb)
        while not all(episode.over for episode in episodes):
            action = policy(frames, step)
            for i, episode in enumerate(episodes):
                episode.act(action[i, 0], _shooting(renderer, episode, pictures[i]))
            frames, step = envs.observe(), step + 1
    clips = [Clip(name, shots, episode.success) for name, shots, episode in zip(names, pictures, episodes, strict=True)]
    write_video(path, tile(clips), round(1 / FRAME / _EVERY))
    return {clip.title: bool(clip.solved) for clip in clips}


def _shooting(renderer: Renderer, episode: Episode, pictures: list[Picture]) -> Listener:
    """A listener that draws the first frame of an action, and every `_EVERY`-th frame after it."""
    turns = itertools.cycle(range(_EVERY))

    def shoot() -> None:
        if next(turns) == 0:
            pictures.append(renderer.image(episode.world, AUDIENCE).rgb)

    return shoot
