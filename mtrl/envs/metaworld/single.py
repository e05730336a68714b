"""One copy of one task as a ``gymnasium.Env``: ``gymnasium.make("mtrl/MT1-v3", task="reach-v3")``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mtrl.core.errors import UserError, expected
from mtrl.envs.metaworld.observing import unbatched
from mtrl.envs.metaworld.vector import MetaWorldVectorEnv


class MetaWorldEnv(gymnasium.Env[Any, NDArray[Any]]):
    """One copy of one task. Observations are (O,) float64 unless `observation` asks for pixels; actions are (4,) in
    [-1, 1].

    Args:
        kind: mt1 or ml1.
        arguments: those of `MetaWorldVectorEnv` without `autoreset_mode`; `threads` is 1 by default.

    Raises:
        UserError: the benchmark has several tasks, or an argument is wrong.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(self, kind: str, **arguments: Any) -> None:
        if kind not in ("mt1", "ml1"):
            how = "made by gymnasium.make_vec, since it has several tasks"
            raise UserError(f"Benchmark {kind} should be {how}. Found gymnasium.make.")
        if "autoreset_mode" in arguments:
            raise expected("Argument `autoreset_mode`", "left out with gymnasium.make", arguments["autoreset_mode"])
        self._envs = MetaWorldVectorEnv(kind, **{"threads": 1, **arguments}, autoreset_mode="Disabled")
        if self._envs.num_envs != 1:
            raise expected("Argument `num_envs`", "1 with gymnasium.make", self._envs.num_envs)
        self.render_mode = self._envs.render_mode
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return unbatched(self._envs.reset(seed=seed)[0])[0], {}

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if np.shape(action) != (4,):
            raise expected("An action", "of shape (4,)", np.shape(action))
        observation, reward, terminated, truncated, infos = self._envs.step(np.asarray(action)[None])
        info = {name: values[0].item() for name, values in infos.items() if not name.startswith("_")}
        return unbatched(observation)[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """A picture (height, width, 3), or None without a render mode."""
        pictures = self._envs.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        self._envs.close()
