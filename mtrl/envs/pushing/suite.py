"""Goal-conditioned pushing as a suite whose tasks are goals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl.core.config import check, option, runtime_option
from mtrl.core.specs import GoalSpec, Spec
from mtrl.core.subset import SomeTasks
from mtrl.core.suite import Suite, SuiteConfig
from mtrl.core.types import FloatArray, Transitions
from mtrl.data.goal_replay import Relabel
from mtrl.envs.metaworld.package_envs import MAX_HORIZON
from mtrl.envs.metaworld.starts import Known
from mtrl.envs.pushing import envs
from mtrl.envs.pushing.envs import PushEnvs
from mtrl.envs.pushing.goals import HIGH, LOW, Goals, check_goals, draw_goals, nearest, normalised


@functools.cache
def _bounds(device: torch.device) -> tuple[Tensor, Tensor]:
    """LOW and HIGH on a device, cached so that they are copied there only once."""
    low, high = (torch.tensor(side, dtype=torch.float32, device=device) for side in (LOW, HIGH))
    return low, high


@dataclass
class Config(SuiteConfig):
    """Options of goal-conditioned pushing."""

    spec_type: ClassVar[type[Spec]] = GoalSpec

    kind: str = "pushing"
    num_goals: int = option(200, "a positive integer")
    """G, the number of goals to train on. Each has its own replay buffer. The Mint paper uses 200, and 10 for
    independent networks."""
    goals_seed: int = option(0, "0 or more")
    """The seed of all goals, including held-out ones. The run's seed does not change them."""
    held_out_goals: int = option(50, "a positive integer")
    """The number of goals that are only evaluated."""
    goals_per_rollout: int = option(9, "a positive integer")
    """T, the number of goals in a rollout, and in a batch."""
    reward: str = option("dense", envs.REWARDS)
    """The reward of a step. dense rewards fingers close to the puck, and a puck close to its place, the target position
    (`tasks.push.push_dense`; the paper does not specify its reward). v1 and v2 are Meta-World's rewards for push.
    distance (−metres) and sparse (−1 or 0) depend only on the positions of the puck and its place."""
    horizon: int = option(150, f"in 1..{MAX_HORIZON}")
    """Steps of an episode. Meta-World's scripted policy needs about 90."""
    threads: int = runtime_option(0, "0 or more")
    """Threads that step the environments; 0 for one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most, found = f"at most {self.num_goals}, the number of goals", self.goals_per_rollout
        check(found <= self.num_goals, "benchmark.goals_per_rollout", most, found)


class PushingSuite(Suite[Config, GoalSpec]):
    """G goals as tasks; implements `training.goal_conditioned.GoalSuite`."""

    panels = (
        ("evaluation/distance/training_goals", "final puck-place distance in metres, goals trained on"),
        ("evaluation/distance/held_out_goals", "final puck-place distance in metres, goals held out"),
        ("evaluation/success/training_goals", "success, goals trained on"),
        ("evaluation/success/held_out_goals", "success, goals held out"),
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.goals = draw_goals(config.goals_seed, config.num_goals)
        self.held_out = draw_goals(config.goals_seed, config.held_out_goals, held_out=True)
        width = len(str(config.num_goals - 1))
        self.spec = GoalSpec(
            tuple(f"goal-{i:0{width}}" for i in range(config.num_goals)),
            envs.OBSERVATION_SIZE,
            4,
            config.horizon,
            torch.from_numpy(normalised(self.goals)),
            config.goals_per_rollout,
        )
        self.step_scale = config.goals_per_rollout
        self._known: Known = {}

    def make_envs(self, seed: int, envs_per_task: int) -> PushEnvs:
        """Environments with `goals_per_rollout` goals at a time, which are drawn anew for each episode."""
        return self._make(self.goals, seed, self.config.goals_per_rollout, envs_per_task)

    def make_goal_envs(self, goals: Any) -> PushEnvs:
        """Environments with one copy of each of these goals (n, 4): the puck's xy and its place's xy, in metres.

        Raises:
            UserError: the goals have another shape or are out of their ranges.
        """
        checked = check_goals(goals)
        return self._make(checked, 0, len(checked), 1, fixed=True)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> PushEnvs:
        """One copy of each of the first `episodes` training goals. `seed` and `protocol` have no effect."""
        return self.make_goal_envs(self.goals[:episodes])

    def _make(self, goals: Goals, seed: int, num_tasks: int, envs_per_task: int, fixed: bool = False) -> PushEnvs:
        return PushEnvs(
            goals,
            self.goals,
            seed,
            num_tasks,
            envs_per_task,
            reward=self.config.reward,
            horizon=self.config.horizon,
            fixed=fixed,
            threads=self.config.threads or None,
            known=self._known,
        )

    def subset_of(self, goals: Any) -> SomeTasks:
        """Turn goals (n, 4), in metres, into what networks take. Raises UserError as `make_goal_envs` does."""
        checked = check_goals(goals)
        index = torch.from_numpy(nearest(checked, self.goals))
        return SomeTasks(index, torch.from_numpy(normalised(checked)))

    def relabeller(self) -> Relabel:
        """A function that relabels batches in hindsight: the reached position of the puck becomes its place.

        A goal is kept if the puck is still within `envs.RADIUS` of its start.

        Raises:
            UserError: the reward depends on more than the positions of the puck and its place.
        """
        kind = self.config.reward
        check(kind in ("distance", "sparse"), "benchmark.reward", "distance or sparse with hindsight", kind)
        return self._relabel

    def _relabel(self, batch: Transitions, reached: Tensor) -> Transitions:
        assert isinstance(batch.subset, SomeTasks)
        low, high = _bounds(reached.device)
        code = batch.subset.code
        start = ((code + 1) / 2 * (high - low) + low)[:, :2]
        puck = envs.puck_of(reached)
        moved = ((puck - start) ** 2).sum(-1, keepdim=True).sqrt() > envs.RADIUS
        place = 2 * (puck - low[2:]) / (high - low)[2:] - 1
        new = torch.cat([code[:, :2], torch.where(moved, place, code[:, 2:])], 1)
        reward = envs.goal_reward(self.config.reward, envs.puck_of(batch.next_observation), puck.unsqueeze(1), torch)
        subset = SomeTasks(batch.subset.task, new)
        return batch._replace(reward=torch.where(moved, reward, batch.reward).to(batch.reward), subset=subset)

    def film(self, policy: Callable[..., FloatArray], path: Path, seed: int) -> None:
        """Write a video of the first nine held-out goals. `seed` has no effect."""
        from mtrl.envs.pushing.film import rollout_video

        rollout_video(policy, self, path, goals=self.held_out[:9])

    def description(self) -> dict[str, Any]:
        config = self.config
        return {
            "benchmark": self.name,
            "reward": config.reward,
            "horizon": config.horizon,
            "success_radius": envs.RADIUS,
            "success": "the puck within the radius of its place at any step; episodes always last to the horizon",
            "goals": "puck x, y, place x, y in metres; goals_per_rollout of them at random for each episode",
            "goals_seed": config.goals_seed,
            "goals_per_rollout": config.goals_per_rollout,
            "training_goals": self.goals.tolist(),
            "held_out_goals": self.held_out.tolist(),
            "versions": {name: version(name) for name in ("metaworld", "mujoco", "gymnasium")},
        }
