"""A small Gymnasium environment, and suites of it, for tests of the adapter."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np

from mtrl.envs.gymnasium import Config, GymnasiumSuite
from tests.support.tiny_runs import TINY

IDS = ["Pendulum-v1", "mtrl-test/Quick-v0"]
GYMNASIUM = [*TINY[1:], "benchmark=gymnasium"]


class Quick(gymnasium.Env[Any, Any]):
    """Three numbers, one action; an episode ends by itself after 5 steps, solved if the last action is positive."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gymnasium.spaces.Dict(
        {"a": gymnasium.spaces.Box(-1, 1, (2,), np.float64), "b": gymnasium.spaces.Box(-1, 1, (1,))}
    )
    action_space = gymnasium.spaces.Box(-3, 5, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def _observation(self) -> dict[str, Any]:
        return {"a": self.np_random.uniform(-1, 1, 2), "b": np.full(1, self.count / 5, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        ended = self.count == 5
        return self._observation(), float(action[0]), ended, False, {"is_success": ended and action[0] > 0}

    def render(self) -> Any:
        return np.full((40, 50, 3), 20 * self.count, np.uint8)


def register(name: str, env: type[gymnasium.Env[Any, Any]], steps: int | None = 200) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(name, cast("Any", env), max_episode_steps=steps)


register(IDS[1], Quick)


def suite(**options: Any) -> GymnasiumSuite:
    return GymnasiumSuite(Config(**{"ids": IDS, **options}))
