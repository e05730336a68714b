"""Pushing a puck on Meta-World's table to a hidden place, which the rewards depend on but observations do not show.

The puck always starts at the same point. The tasks' places differ only in x, which is between -20 cm and 20 cm. The
environment is `mtrl/GoalPush-v0` with its dense reward; the goal at the end of its observations is removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from mtrl.core.config import option
from mtrl.envs.locomotion import Family, FamilySuite
from mtrl.envs.pushing import gym_env
from mtrl.envs.pushing.goals import GOAL_SIZE, PLACE_HIGH, PLACE_LOW

PUCK, PLACE_Y = (0.0, 0.65), 0.9
"""Where the puck starts (x, y), and the y of every place, in metres."""


@dataclass
class Config(Family):
    kind: str = "hidden_push"
    horizon: int | None = option(150, "a positive integer")
    """Steps of an episode; None means 1000."""

    def goal_of(self, task: str) -> float:
        """The place's x, in metres."""
        return PLACE_LOW[0] + (PLACE_HIGH[0] - PLACE_LOW[0]) * self.goal(task)

    def made(self, name: str, **options: Any) -> gymnasium.Env[Any, Any]:
        goals = [[*PUCK, self.goal_of(name), PLACE_Y]]
        steps = self.horizon_of(name)
        return HiddenPlace(gymnasium.make("mtrl/GoalPush-v0", steps, True, goals=goals, horizon=steps, **options))


class HiddenPlace(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A pushing environment whose observations (22,) do not contain the goal."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        shown = env.observation_space
        assert isinstance(shown, Box)
        self.observation_space = Box(shown.low[:-GOAL_SIZE], shown.high[:-GOAL_SIZE], dtype=np.float64)

    def observation(self, observation: Any) -> Any:
        return observation[:-GOAL_SIZE]


gym_env.register()


def build(config: Config) -> FamilySuite:
    return FamilySuite(config)
