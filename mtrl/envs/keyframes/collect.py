"""Collects demonstrations from the scripted experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtrl.core.errors import UserError
from mtrl.data.demos import Demo, Frame, keyframes
from mtrl.envs.keyframes.cameras import Renderer, observe
from mtrl.envs.keyframes.episode import Episode

_PATIENCE = 20
"""After this many failures of an expert in a row, `collect` raises an error."""


def collect(
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    *,
    cameras: Sequence[str],
    image_size: int,
    every_frame: bool = False,
) -> Iterator[Demo]:
    """Yield `episodes` demonstrations of each task, task by task.

    All frames hold the gripper's state. Pictures are drawn at the frames at which a policy decides (before the first
    action and after every action but the last) or, with `every_frame`, at all frames. Scenes in which the expert does
    not succeed with the task's number of keyframes are skipped. `Demo.seed` is the number of the scene.

    Raises:
        RenderingUnavailable: offscreen OpenGL is not available. This is checked before anything is simulated.
        UserError: an expert fails too often in a row.
    """
    with Renderer(image_size) as renderer:
        for task in tasks:
            episode, number, failures = Episode(task, seed, "demos"), 0, 0
            for _ in range(episodes):
                while (demo := demonstrate(episode, number, cameras, renderer, every_frame)) is None:
                    number, failures = number + 1, failures + 1
                    if failures >= _PATIENCE:
                        raise UserError(f"The expert of {task} should succeed. Found {failures} failures in a row.")
                yield demo
                number, failures = number + 1, 0


def demonstrate(
    episode: Episode, number: int, cameras: Sequence[str], renderer: Renderer | None, every_frame: bool = False
) -> Demo | None:
    """A demonstration in scene `number`, or None if the expert does not succeed with the task's number of keyframes.

    Without a renderer there are no pictures.
    """
    size = 1 if renderer is None else renderer.size
    world, frames = episode.world, list[Frame]()

    def record(drawn: bool) -> None:
        draw = drawn or every_frame
        frames.append(observe(world, cameras if draw else (), size, renderer if draw else None))

    episode.begin(number)
    record(True)
    actions = episode.expert()
    for i, action in enumerate(actions):
        episode.act(action, lambda: record(False))
        if i < len(actions) - 1 and not every_frame:
            # The next action is decided at the last frame of this one, so that frame needs pictures.
            frames[-1] = observe(world, cameras, size, renderer)
    complete = episode.stage == len(actions) == len(keyframes(frames))
    if not (episode.success and complete):
        return None
    return Demo(episode.task.name, frames, descriptions=[episode.task.sentence], seed=number)
