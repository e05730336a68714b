"""Any Gymnasium environments as tasks: 'benchmark.ids=[Pendulum-v1]'

All have observations of one size, flattened, and actions of one size, scaled from [-1, 1] to the environment's own
bounds. Rewards and the ends of episodes are the environment's. An episode is solved if the environment says so in its
last step (`info["is_success"]` or `info["success"]`), or, where an environment says nothing, if its return reaches a
threshold. If a task has neither, results are returns alone. Environments step one after another in this process.

Gymnasium has no way to save an environment. A checkpoint therefore holds the number of each episode, which gives its
seed, and the actions that it has had: they are played again when the run goes on. That is exact for every environment
whose randomness follows its seed; with another the last observation differs, and the run is refused.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, SupportsFloat, cast

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, flatdim
from gymnasium.wrappers import FlattenObservation, RescaleAction

from mtrl.core.config import check, check_choice, option
from mtrl.core.errors import UserError, expected, told
from mtrl.core.specs import ControlSpec, Spec
from mtrl.core.suite import ChosenTasks, Suite
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import Clip, Frame, check_writer, reduced, tile, write_video

_EVALUATION_COPIES = 10
"""Environments of each task in an evaluation, at most."""
_TRAINING, _EVALUATION = 0, 1
_FRAMES, _PICTURE = 300, 320
"""The most pictures and pixels along a side of each task's part of a video."""


@dataclass
class Config(ChosenTasks):
    """Options of a benchmark of Gymnasium environments."""

    spec_type: ClassVar[type[Spec]] = ControlSpec

    kind: str = "gymnasium"
    ids: list[str] = field(default_factory=lambda: ["Pendulum-v1"])
    """The tasks: ids registered with Gymnasium, including those of modules that --import names."""
    horizon: int | None = option(None, "a positive integer")
    """Steps after which an episode is truncated; each environment's own number if not given."""
    solved_at: float | None = None
    """The return that solves an episode, where the environment does not tell; the registered one if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.ids), "benchmark.ids", "a list of ids", list(self.ids))
        check(len(set(self.ids)) == len(self.ids), "benchmark.ids", "different from each other", list(self.ids))
        finite = self.solved_at is None or math.isfinite(self.solved_at)
        check(finite, "benchmark.solved_at", "a finite number", self.solved_at)
        for name in self.ids:  # `module:id`, which imports the module, is not registered under this name
            if name not in gymnasium.registry:
                near = difflib.get_close_matches(name, gymnasium.registry, n=1)
                what = "ids registered with Gymnasium (--import MODULE adds a module's)"
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UserError(f"{expected('Option `benchmark.ids`', what, name)}{hint}")
        self.check_tasks(self.ids, ", the tasks that `benchmark.ids` lists")

    def horizon_of(self, name: str) -> int:
        """Steps after which an episode of a task is truncated."""
        steps = self.horizon or gymnasium.registry[name].max_episode_steps
        if steps is None:
            raise expected("Option `benchmark.horizon`", f"a number of steps, as {name} has none of its own", None)
        return steps

    def threshold_of(self, name: str) -> float | None:
        """The return that solves an episode of a task, None where none is known."""
        found = gymnasium.registry[name].reward_threshold if self.solved_at is None else self.solved_at
        return float(found) if found is not None and math.isfinite(found) else None

    def make(self, name: str, **options: Any) -> gymnasium.Env[FloatArray, FloatArray]:
        """One environment with observations (O,) and actions (A,) in [-1, 1].

        Raises:
            UserError: it cannot be made, its spaces do not fit, or nothing ends its episodes.
        """
        try:
            env = gymnasium.make(name, self.horizon_of(name), disable_env_checker=True, **options)
            actions, observations = env.action_space, env.observation_space
        except UserError:
            raise
        except Exception as error:  # of whatever makes it
            raise expected(f"Environment {name}", "one that can be made here", _told(error, name)) from error
        if not (isinstance(actions, Box) and len(actions.shape) == 1 and actions.is_bounded()):
            raise expected(f"Actions of {name}", "a vector with bounds", str(actions))
        if not observations.is_np_flattenable:
            raise expected(f"Observations of {name}", "such that they can be flattened", str(observations))
        one = np.dtype(actions.dtype).type(1)  # another type of number would be cast with a warning
        return RescaleAction(FlattenObservation(env), -one, one)


class GymnasiumSuite(Suite[Config, ControlSpec]):
    """One Gymnasium environment for each task (see the module)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        alone = [self._alone(name) for name in config.tasks or config.ids]
        sizes = [(spec.observation_size, spec.action_size) for spec in alone]
        names = tuple(name for spec in alone for name in spec.tasks)
        for name, found in zip(names, sizes, strict=True):
            if found != sizes[0]:
                raise expected(f"Observation and action of {name}", f"of sizes {sizes[0]}, as {names[0]} has", found)
        horizon, tells = max(spec.horizon for spec in alone), all(spec.tells_success for spec in alone)
        self.spec = ControlSpec(names, *sizes[0], horizon, tells_success=tells)

    def _alone(self, name: str) -> ControlSpec:
        """The specification of one task; its first step shows whether it tells success."""
        with contextlib.closing(self.config.make(name)) as env:
            info = _tried(env, name)
            tells = _success(info) is not None or self.config.threshold_of(name) is not None
            sizes = flatdim(env.observation_space), flatdim(env.action_space)
        return ControlSpec((name,), *sizes, self.config.horizon_of(name), tells_success=tells)

    def make_envs(self, seed: int, envs_per_task: int, copies: range | None = None) -> GymnasiumEnvs:
        return GymnasiumEnvs(self, (seed, _TRAINING), envs_per_task, copies)

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> GymnasiumEnvs:
        """Under either protocol, episode e of a task has a seed of its own and ends by the environment's rules."""
        check_choice("evaluation.protocol", protocol, ("goals", "upstream"))
        check(episodes >= 1, "evaluation.episodes", "a positive integer", episodes)
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
        """Write a video of one episode of every task."""
        check_writer()
        if "mujoco" in sys.modules:  # Gymnasium would try a way to draw first that needs a display
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


class GymnasiumEnvs:
    """T tasks with N environments each; implements `TaskVectorEnv`.

    Episode e of environment n is the (e N + n)-th of its task, which has a seed of its own.
    """

    def __init__(
        self,
        suite: GymnasiumSuite,
        seed: tuple[int, int],
        envs_per_task: int,
        copies: range | None = None,
        **options: Any,
    ) -> None:
        """
        seed: the run's seed, and a number for the purpose, so that training and evaluation differ.
        copies: the numbers of the environments to open, among the N of each task; all if not given.
        options: further arguments of `gymnasium.make`.
        """
        spec, config = suite.spec, suite.config
        self._numbers, self._all = range(envs_per_task) if copies is None else copies, envs_per_task
        self.num_tasks, self.envs_per_task = spec.num_tasks, len(self._numbers)
        self._names, self._seed = spec.tasks, seed
        self._envs = [[config.make(name, **options) for _ in self._numbers] for name in spec.tasks]
        self._thresholds = [config.threshold_of(name) for name in spec.tasks]
        shape = (self.num_tasks, self.envs_per_task)
        self._observation, self._next_observation = np.zeros((2, *shape, spec.observation_size), np.float32)
        self._actions = np.zeros((*shape, spec.horizon, spec.action_size), np.float32)
        self._reward, self._return = np.zeros((2, *shape))
        self._terminated, self._truncated, self._success = np.zeros((3, *shape), bool)
        self._length, self._episode = np.zeros((2, *shape), np.int64)
        self.reset()

    def reset(self, seed: int | None = None) -> FloatArray:
        """Start anew from `seed`, or from the seed of the last reset: the same episodes follow."""
        self._seed = (self._seed[0] if seed is None else seed, self._seed[1])
        self._episode[:] = 0
        for place in np.ndindex(self._length.shape):
            self._begin(place)
        return self._observation

    def step(self, action: FloatArray) -> StepResult:
        for place in np.ndindex(self._length.shape):
            self._step(place, action[place])
            if self._terminated[place] or self._truncated[place]:
                self._episode[place] += 1
                self._begin(place)
        found = (self._reward, self._terminated, self._truncated, self._next_observation, self._success)
        return StepResult(self._observation, *found)

    def _begin(self, place: tuple[int, ...]) -> None:
        task, n = place
        number = int(self._episode[place]) * self._all + self._numbers[n]
        seed = int(np.random.SeedSequence((*self._seed, task, number)).generate_state(1)[0])
        self._observation[place] = self._envs[task][n].reset(seed=seed)[0]
        self._length[place], self._return[place] = 0, 0.0

    def _step(self, place: tuple[int, ...], action: FloatArray) -> None:
        task, n = place
        chosen = self._actions[place][self._length[place]]
        np.clip(action, -1, 1, out=chosen)
        found, reward, terminated, truncated, info = self._envs[task][n].step(chosen)
        self._next_observation[place] = self._observation[place] = found
        self._reward[place], self._terminated[place], self._truncated[place] = reward, terminated, truncated
        self._length[place] += 1
        self._return[place] += float(reward)
        solved, threshold = _success(info), self._thresholds[task]
        if solved is None and threshold is not None:
            solved = (terminated or truncated) and self._return[place] >= threshold
        self._success[place] = bool(solved)

    def picture(self, task: int) -> Frame:
        """A task's first environment, where they were made with `render_mode="rgb_array"`.

        Raises:
            UserError: it cannot be drawn.
        """
        try:
            return reduced(np.asarray(self._envs[task][0].render(), np.uint8), _PICTURE)
        except Exception as error:  # of whatever draws them
            raise expected(f"Environment {self._names[task]}", "one with pictures", str(error)) from error

    def state_dict(self) -> dict[str, Any]:
        """The actions (T, N, steps, A) go up to the end of the longest episode under way."""
        played = self._actions[:, :, : self._length.max()]
        arrays = {"actions": played, "length": self._length, "episode": self._episode, "observation": self._observation}
        return {"seed": list(self._seed), **{name: torch.tensor(array) for name, array in arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        """Go back to a saved state, by playing the episodes under way again.

        Raises:
            UserError: it is the state of other numbers of environments, or an episode takes another course.
        """
        saved = {name: state[name].numpy() for name in ("actions", "length", "episode", "observation")}
        if saved["observation"].shape != self._observation.shape:
            raise expected("Saved environments (T, N, O)", str(self._observation.shape), saved["observation"].shape)
        self._seed = tuple(state["seed"])
        self._episode[:] = saved["episode"]
        for place in np.ndindex(self._length.shape):
            self._begin(place)
            for action in saved["actions"][place][: saved["length"][place]]:
                self._step(place, action)
            if not np.array_equal(self._observation[place], saved["observation"][place], equal_nan=True):
                what = "one that repeats an episode from its seed and actions, so that a run can go on"
                raise expected(f"Environment {self._names[place[0]]}", what, "another episode")
        return self._observation

    def close(self) -> None:
        for env in itertools.chain.from_iterable(self._envs):
            env.close()


def _tried(env: gymnasium.Env[FloatArray, FloatArray], name: str) -> Mapping[str, Any]:
    """What one step says beside observation and reward.

    Raises:
        UserError: reset or step fails, or gives something else than its spaces and Gymnasium's interface say.
    """
    owner = f"Environment {name}"
    what = "one whose reset(seed=..., options=...) gives (observation, info)"
    try:
        observation, _ = env.reset(seed=0)
        _check_shape(owner, what, env, observation)
        what = "one whose step(action) gives (observation, reward, terminated, truncated, info)"
        observation, reward, _, _, info = env.step(np.zeros(env.action_space.shape or (), np.float32))
        _check_shape(owner, what, env, observation)
    except UserError:
        raise
    except Exception as error:  # of whatever is in it
        raise expected(owner, what, _told(error, name)) from error
    if not (isinstance(reward, SupportsFloat) and np.ndim(cast("Any", reward)) == 0 and math.isfinite(reward)):
        raise expected(owner, "one whose rewards are finite numbers", reward)
    if not isinstance(info, Mapping):
        raise expected(owner, f"{what}, with info a dictionary", info)
    return info


def _check_shape(owner: str, what: str, env: gymnasium.Env[Any, Any], observation: Any) -> None:
    found, shape = np.shape(observation), env.observation_space.shape
    if found != shape:
        raise expected(owner, f"{what}, with observations of its space, {shape} when flattened", found)


def _told(error: Exception, name: str) -> str:
    """What an error of an environment says, with the line of the environment's own code."""
    entry = gymnasium.registry[name].entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    return told(error, module)


def _success(info: Mapping[str, Any]) -> Any:
    """Whether the environment says that the task is solved, None where it says nothing."""
    return info.get("is_success", info.get("success"))


def build(config: Config) -> GymnasiumSuite:
    return GymnasiumSuite(config)
