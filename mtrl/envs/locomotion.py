"""Gymnasium's MuJoCo robots with hidden goals, as in Li et al. 2020.

Tasks differ only in their rewards, which are those of the published code. In `goal_velocity`, the reward is minus the
absolute error of the forward velocity; in `goal_direction`, it is the velocity along the goal's direction. Terms of the
robot's own reward are added: a control cost, and for Ant also a contact cost and a bonus while it is healthy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium

from mtrl.core.config import option
from mtrl.core.suite import FamilyConfig
from mtrl.envs.gymnasium import AdapterConfig, GymnasiumSuite


@dataclass
class Family(FamilyConfig, AdapterConfig):
    """Options of every family of Gymnasium environments with hidden goals."""

    horizon: int | None = option(200, "a positive integer")
    """Steps of an episode; None means 1000."""

    @property
    def names(self) -> Sequence[str]:
        return self.chosen

    def horizon_of(self, name: str) -> int:
        return self.horizon or 1000

    def goal_of(self, task: str) -> float:
        """The hidden number by which a task differs from the others."""
        raise NotImplementedError


@dataclass
class Robot(Family):
    """A robot whose reward depends on the goal."""

    robot: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]]
    """Arguments of `gymnasium.make` for the robot's environment."""

    def made(self, name: str, **options: Any) -> gymnasium.Env[Any, Any]:
        steps = self.horizon_of(name)
        env = gymnasium.make(self.robot, steps, disable_env_checker=True, **self.settings, **options)
        return HiddenGoal(env, self, self.goal_of(name))

    def reward(self, goal: float, info: Mapping[str, Any]) -> float:
        """The reward of a step. info: the `info` of the robot's environment, with velocities in m/s."""
        raise NotImplementedError


@dataclass
class Velocity(Robot):
    """HalfCheetah should run at the goal's velocity, between 0 and 1.5 m/s."""

    robot: ClassVar[str] = "HalfCheetah-v5"
    settings: ClassVar[Mapping[str, Any]] = {"ctrl_cost_weight": 0.05}
    kind: str = "goal_velocity"

    def goal_of(self, task: str) -> float:
        """The velocity, in m/s."""
        return 1.5 * self.goal(task)

    def reward(self, goal: float, info: Mapping[str, Any]) -> float:
        return -abs(info["x_velocity"] - goal) + info["reward_ctrl"]


@dataclass
class Direction(Robot):
    """Ant should run as fast as it can in the goal's direction, between 0° and 270°."""

    robot: ClassVar[str] = "Ant-v5"
    settings: ClassVar[Mapping[str, Any]] = {"include_cfrc_ext_in_observation": False}
    kind: str = "goal_direction"

    def goal_of(self, task: str) -> float:
        """The direction, in radians."""
        return 1.5 * math.pi * self.goal(task)

    def reward(self, goal: float, info: Mapping[str, Any]) -> float:
        along = info["x_velocity"] * math.cos(goal) + info["y_velocity"] * math.sin(goal)
        return along + info["reward_ctrl"] + info["reward_contact"] + info["reward_survive"]


class HiddenGoal(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A robot's environment whose reward depends on a goal."""

    def __init__(self, env: gymnasium.Env[Any, Any], family: Robot, goal: float) -> None:
        super().__init__(env)
        self._family, self._goal = family, goal

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(self._family.reward(self._goal, info)), terminated, truncated, info


class FamilySuite(GymnasiumSuite[Family]):
    @property
    def unseen(self) -> FamilySuite:
        return FamilySuite(self.config.held_out())

    def description(self) -> dict[str, Any]:
        seen, unseen = (
            {task: round(self.config.goal_of(task), 4) for task in tasks}
            for tasks in (self.tasks, self.config.held_out().chosen)
        )
        return super().description() | {"goals": seen, "unseen_goals": unseen}


CONFIGS = {"goal_velocity": Velocity, "goal_direction": Direction}


def build(config: Family) -> FamilySuite:
    return FamilySuite(config)
