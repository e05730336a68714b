"""Observations of a vector environment's sub-environments: states, pictures, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from numpy.typing import NDArray

from mtrl.core.types import BoolArray, FloatArray
from mtrl.envs.metaworld.arguments import Arguments
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.rendering import EnginePictures
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, OBSERVATION_SIZE

Array = NDArray[Any]
Observation = Array | dict[str, Array]
_GOAL = slice(2 * CURRENT_SIZE, OBSERVATION_SIZE)
"""The goal's place in a state, after the current and the previous frame."""


class Observer:
    """Makes observations of an engine's N copies of each of T tasks. `space` is the space of a single observation.

    A state is (O,) float64: the engine's observation (39), with zeros in place of the goal in meta-learning, then the
    task's one-hot code (T) if requested. Pixels are (height, width, 3) uint8, or (K, height, width, 3) for a list of K
    cameras. When episodes end in a step, their last pictures are drawn before they restart.
    """

    def __init__(self, envs: BatchedEnvs, given: Arguments) -> None:
        self._envs, self._given = envs, given
        codes = np.repeat(np.eye(envs.num_tasks), envs.envs_per_task, axis=0)
        self._codes = codes if given.use_one_hot else codes[:, :0]
        self._rows = np.zeros((len(codes), OBSERVATION_SIZE + self._codes.shape[1]))
        shape = (len(given.cameras), *given.picture, 3)
        state = Box(-np.inf, np.inf, self._rows.shape[1:], np.float64)
        pixels = Box(0, 255, shape[1:] if isinstance(given.camera_name, str) else shape, np.uint8)
        spaces: dict[str, Space[Any]] = {"state": state, "pixels": pixels, "both": Dict(state=state, pixels=pixels)}
        self.space = spaces[given.observation]
        self._shown = (-1, *(pixels.shape or ()))
        self._engine_pictures: EnginePictures | None = None
        if given.observation != "state":
            envs.before_restart = self._draw

    def __call__(self, state: FloatArray) -> Observation:
        """Turn the engine's observations (T, N, 39) of its current states into a batch of T · N."""
        if self._given.observation != "state":
            self._draw()
        return self._made(state, self._given.copy)

    def final(self, state: FloatArray) -> list[Any]:
        """Turn the engine's observations (T, N, 39) before ended episodes restart into a list of T · N observations.

        For episodes that continue, the pictures are those of the previous step.
        """
        return unbatched(self._made(state, True))

    def render(self) -> tuple[Array, ...]:
        """A picture (height, width, 3) of each sub-environment, from the first camera."""
        drawn = self._draw()[:, :, 0].copy()
        return tuple(drawn.reshape(-1, *drawn.shape[2:]))

    def close(self) -> None:
        if self._engine_pictures is not None:
            self._engine_pictures.close()

    def _draw(self, which: BoolArray | None = None) -> Array:
        if self._engine_pictures is None:
            height, width = self._given.picture
            self._engine_pictures = EnginePictures(self._envs, width, height, self._given.cameras)
        return self._engine_pictures.draw(which)

    def _made(self, state: FloatArray, copy: bool) -> Observation:
        parts: dict[str, Array] = {}
        if self._given.observation != "pixels":
            np.concatenate([state.reshape(len(self._rows), -1), self._codes], axis=1, out=self._rows)
            if self._given.split:
                self._rows[:, _GOAL] = 0.0
            parts["state"] = self._rows
        if self._given.observation != "state" and self._engine_pictures is not None:
            parts["pixels"] = self._engine_pictures.pictures.reshape(self._shown)
        parts = {name: part.copy() for name, part in parts.items()} if copy else parts
        return parts if self._given.observation == "both" else next(iter(parts.values()))


def unbatched(observation: Observation) -> list[Any]:
    """Split a batch into the observation of each sub-environment."""
    if isinstance(observation, dict):
        return [dict(zip(observation, values, strict=True)) for values in zip(*observation.values(), strict=True)]
    return list(observation)
