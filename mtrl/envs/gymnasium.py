"""Any Gymnasium environments as tasks: 'benchmark.ids=[Pendulum-v1]'

Observations are flattened and must have the same size in all environments. Actions must have the same size, too, and
are scaled from [-1, 1] to the environment's bounds. Rewards and the ends of episodes are the environment's.

In evaluations, an episode is solved if the `info` of its last step says so (`is_success` or `success`); in training, if
that of any step does. If the last step has no such entry, the episode is solved if its return reaches a threshold. If
one of the tasks has neither a threshold nor such an entry in the first step of an episode, the results of all tasks are
only returns. Environments step one after another in the process that made them.

Gymnasium has no way to save an environment. A checkpoint therefore holds each episode's number, which gives its seed,
and the actions of the episode under way, which are replayed when the run is resumed. This is exact for every
environment whose randomness follows its seed. If the last observation differs, the run is not resumed.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, SupportsFloat, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatdim
from gymnasium.wrappers import FlattenObservation, RescaleAction

from mtrl.core.config import check, check_choice, option
from mtrl.core.errors import UserError, expected
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.suite import EPISODES, ChosenTasks, Suite
from mtrl.core.types import FloatArray
from mtrl.envs.gymnasium_envs import STEPS, GymnasiumEnvs, calling, check_shape, reset, solved_by
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import Clip, check_writer, tile, write_video

_EVALUATION_COPIES = 10
"""The most environments per task in an evaluation."""
_TRAINING, _EVALUATION = 0, 1
_FRAMES = 300
"""The most frames per task in a video, after the first."""


@dataclass
class AdapterConfig(ChosenTasks):
    """Options of every benchmark of Gymnasium environments."""

    spec_type: ClassVar[type[Spec]] = ControlSpec

    horizon: int | None = option(None, "a positive integer")
    """Steps after which an episode is truncated; each environment's registered limit if not given."""

    @property
    def names(self) -> Sequence[str]:
        """The suite's tasks."""
        raise NotImplementedError

    def horizon_of(self, name: str) -> int:
        """Steps after which an episode of a task is truncated."""
        raise NotImplementedError

    def threshold_of(self, name: str) -> float | None:
        """The return that solves an episode of a task, or None where none is known."""
        return None

    def made(self, name: str, **options: Any) -> gymnasium.Env[Any, Any]:
        """One environment with its own spaces, and a limit on its steps. options: arguments of `gymnasium.make`."""
        raise NotImplementedError

    def make(self, name: str, **options: Any) -> gymnasium.Env[FloatArray, FloatArray]:
        """One environment with observations (O,) and actions (A,) in [-1, 1].

        Raises:
            UserError: the environment cannot be made, its actions are not a vector of floating-point numbers with
                bounds, its observations cannot be flattened, or its episodes have no limit.
        """
        with calling(name, "one that can be made here"):
            env = self.made(name, **options)
            actions, observations = env.action_space, env.observation_space
        if not (isinstance(actions, Box) and len(actions.shape) == 1 and _can_be_scaled(actions)):
            what = "a vector of floating-point numbers with bounds, each low bound below the high one"
            raise expected(f"Actions of {name}", what, str(actions))
        if not observations.is_np_flattenable:
            raise expected(f"Observations of {name}", "of a kind that can be flattened", str(observations))
        one = np.dtype(actions.dtype).type(1)  # gymnasium warns about bounds of another dtype
        return RescaleAction(FlattenObservation(env), -one, one)


@dataclass
class Config(AdapterConfig):
    """Options of a benchmark of registered Gymnasium environments."""

    kind: str = "gymnasium"
    ids: list[str] = field(default_factory=lambda: ["Pendulum-v1"])
    """The tasks: ids registered with Gymnasium, including those of modules given with --import."""
    solved_at: float | None = None
    """The return that solves an episode if the environment does not report success; the registered threshold if not
    given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.ids), "benchmark.ids", "a list of ids", list(self.ids))
        check(len(set(self.ids)) == len(self.ids), "benchmark.ids", "a list without duplicates", list(self.ids))
        finite = self.solved_at is None or math.isfinite(self.solved_at)
        check(finite, "benchmark.solved_at", "a finite number", self.solved_at)
        for name in self.ids:  # this also refuses `module:id`, for which `make` would import the module
            if name not in gymnasium.registry:
                near = difflib.get_close_matches(name, gymnasium.registry, n=1)
                what = "ids registered with Gymnasium (--import MODULE adds a module's)"
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UserError(f"{expected('Option `benchmark.ids`', what, name)}{hint}")
        self.check_tasks(self.ids, ", the tasks that `benchmark.ids` lists")

    @property
    def names(self) -> Sequence[str]:
        return self.tasks or self.ids

    def horizon_of(self, name: str) -> int:
        steps = self.horizon or gymnasium.registry[name].max_episode_steps
        if steps is None:
            raise expected("Option `benchmark.horizon`", f"a number of steps, as {name} has no limit", None)
        return steps

    def threshold_of(self, name: str) -> float | None:
        found = gymnasium.registry[name].reward_threshold if self.solved_at is None else self.solved_at
        return float(found) if found is not None and math.isfinite(found) else None

    def made(self, name: str, **options: Any) -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(name, self.horizon, disable_env_checker=True, **options)
        self.horizon_of(name)  # refuses episodes without a limit; the environment's own errors come first
        return env


_Adapted = TypeVar("_Adapted", bound=AdapterConfig)


class GymnasiumSuite(Suite[_Adapted, ControlSpec]):
    """One Gymnasium environment for each task (see the module).

    Raises:
        UserError: an environment cannot be made or stepped, or its sizes differ from those of the first.
    """

    def __init__(self, config: _Adapted) -> None:
        self.config = config
        alone = [self._alone(name) for name in config.names]
        sizes = [(spec.observation_size, spec.action_size) for spec in alone]
        names = tuple(name for spec in alone for name in spec.tasks)
        for name, found in zip(names, sizes, strict=True):
            if found != sizes[0]:
                raise expected(
                    f"Observation and action of {name}", f"of sizes {sizes[0]}, like those of {names[0]}", found
                )
        horizon, tells = max(spec.horizon for spec in alone), all(spec.tells_success for spec in alone)
        self.spec = ControlSpec(names, *sizes[0], horizon, tells_success=tells)

    def _alone(self, name: str) -> ControlSpec:
        """The specification of one task. The first step of an episode shows whether the environment reports success."""
        with contextlib.closing(self.config.make(name)) as env:
            info = _tried(env, name)
            tells = solved_by(info) is not None or self.config.threshold_of(name) is not None
            sizes = flatdim(env.observation_space), flatdim(env.action_space)
        return ControlSpec((name,), *sizes, self.config.horizon_of(name), tells_success=tells)

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> GymnasiumEnvs:
        return GymnasiumEnvs(self, (seed, _TRAINING), envs_per_task, copies)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> GymnasiumEnvs:
        """At most 10 environments per task. Both protocols do the same here: each episode has a seed of its own."""
        check_choice("evaluation.protocol", protocol, ("goals", "upstream"))
        check(episodes >= 1, EPISODES, "a positive integer", episodes)
        return GymnasiumEnvs(self, (seed, _EVALUATION), min(episodes, _EVALUATION_COPIES))

    def description(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "tasks": list(self.tasks),
            "horizon": [self.config.horizon_of(name) for name in self.tasks],
            "solved_at": [self.config.threshold_of(name) for name in self.tasks],
            "goals": "each episode from a seed of its own",
            "versions": {"gymnasium": version("gymnasium")},
        }

    def film(self, policy: Callable[[FloatArray], FloatArray], path: Path, seed: int) -> None:
        """Write a video of one episode of every task. policy: observations (T, 1, O) -> actions (T, 1, A).

        Raises:
            RenderingUnavailable: the video writer is missing.
            UserError: an environment cannot be drawn.
        """
        check_writer()
        if "mujoco" in sys.modules:  # Gymnasium's default needs a display
            with contextlib.suppress(UserError):
                os.environ.setdefault("MUJOCO_GL", offscreen_backend())
        running, solved, total = np.ones(len(self.tasks), bool), np.zeros(()), np.zeros(len(self.tasks))
        with contextlib.closing(GymnasiumEnvs(self, (seed, _EVALUATION), 1, render_mode="rgb_array")) as envs:
            observation, frames = envs.reset(), [[envs.picture(task)] for task in range(envs.num_tasks)]
            for number in range(1, self.spec.horizon + 1):
                step = envs.step(policy(observation))
                observation = step.observation
                total += running * step.reward[:, 0]
                solved = np.where(running, step.success[:, 0], solved)
                running &= ~(step.terminated | step.truncated)[:, 0]
                if number % math.ceil(self.spec.horizon / _FRAMES) == 0:
                    for task in np.flatnonzero(running).tolist():
                        frames[task].append(envs.picture(task))
        known = solved.astype(bool).tolist() if self.spec.tells_success else [None] * len(frames)
        titles = [f"{task}: return {value:.4g}" for task, value in zip(self.tasks, total, strict=True)]
        write_video(path, tile([Clip(*clip) for clip in zip(titles, frames, known, strict=True)]), 30)


def _can_be_scaled(space: Box) -> bool:
    """Whether `RescaleAction` can scale every component from [-1, 1] to its bounds."""
    floating = np.issubdtype(space.dtype, np.floating)
    return floating and space.is_bounded() and bool((space.low < space.high).all())


def _tried(env: gymnasium.Env[FloatArray, FloatArray], name: str) -> Mapping[str, Any]:
    """The `info` of the first step of an episode, with the action 0.

    Raises:
        UserError: `reset` or `step` fails, or returns something that does not fit the environment's spaces or
            Gymnasium's interface.
    """
    reset(env, name, seed=0)
    with calling(name, STEPS):
        observation, reward, _, _, info = env.step(np.zeros(env.action_space.shape or (), np.float32))
        check_shape(name, STEPS, env, observation)
    owner = f"Environment {name}"
    if not (isinstance(reward, SupportsFloat) and np.ndim(cast("Any", reward)) == 0 and math.isfinite(reward)):
        raise expected(owner, "one whose rewards are finite numbers", reward)
    if not isinstance(info, Mapping):
        raise expected(owner, f"{STEPS}, with info a dictionary", info)
    return info


def build(config: Config) -> GymnasiumSuite[Config]:
    return GymnasiumSuite(config)
