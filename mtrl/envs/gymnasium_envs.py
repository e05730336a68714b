"""Several copies of a Gymnasium environment for each task, stepped one after another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch

from mtrl.core.errors import UserError, expected, told
from mtrl.core.specs import ControlSpec
from mtrl.core.suite import Suite
from mtrl.core.types import FloatArray, StepResult
from mtrl.monitoring.video import Frame, reduced

_PICTURE = 320
"""The most pixels along an edge of a picture."""
_RESETS = "one whose reset(seed=..., options=...) gives (observation, info)"
STEPS = "one whose step(action) gives (observation, reward, terminated, truncated, info)"


class GymnasiumEnvs:
    """T tasks with N environments each; implements `TaskVectorEnv`.

    Episode e of environment n has the number e · N + n in its task, both counted from 0. The number determines the
    episode's seed, so every episode of a task has a seed of its own.
    """

    def __init__(
        self,
        suite: Suite[Any, ControlSpec],
        seed: tuple[int, int],
        envs_per_task: int,
        copies: range | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            seed: the run's seed, and a number for the purpose, so that training and evaluation differ.
            envs_per_task: N.
            copies: which of the N environments of each task to open; all if not given.
            options: further arguments of `gymnasium.make`.

        Raises:
            UserError: an environment cannot be made or reset.
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
        self._observation[place] = reset(self._envs[task][n], self._names[task], seed)
        self._length[place], self._return[place] = 0, 0.0

    def _step(self, place: tuple[int, ...], action: FloatArray) -> None:
        task, n = place
        chosen = self._actions[place][self._length[place]]
        np.clip(action, -1, 1, out=chosen)
        env, name = self._envs[task][n], self._names[task]
        with calling(name, STEPS):
            found, reward, terminated, truncated, info = env.step(chosen)
            check_shape(name, STEPS, env, found)
            self._next_observation[place] = self._observation[place] = found
            self._reward[place], self._terminated[place], self._truncated[place] = reward, terminated, truncated
            solved = solved_by(info)
            if solved is not None and (np.ndim(solved) or isinstance(solved, str)):
                raise TypeError(f"info's success is {solved!r}, not one truth value")
        self._length[place] += 1
        self._return[place] += self._reward[place]
        threshold = self._thresholds[task]
        if solved is None and threshold is not None:
            solved = (terminated or truncated) and self._return[place] >= threshold
        self._success[place] = bool(solved)

    def picture(self, task: int) -> Frame:
        """A picture of a task's first environment, which must have been made with `render_mode="rgb_array"`.

        Raises:
            UserError: the environment cannot be drawn.
        """
        try:
            return reduced(np.asarray(self._envs[task][0].render(), np.uint8), _PICTURE)
        except Exception as error:  # the environment may raise any error
            raise expected(
                f"Environment {self._names[task]}", "one that renders pictures (render_mode='rgb_array')", str(error)
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """The state. Its actions (T, N, L, A) are those of the episodes under way, of which the longest has L steps."""
        played = self._actions[:, :, : self._length.max()]
        arrays = {"actions": played, "length": self._length, "episode": self._episode, "observation": self._observation}
        return {"seed": list(self._seed), **{name: torch.tensor(array) for name, array in arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        """Restore a saved state by replaying the episodes under way, and return its observations (T, N, O).

        Raises:
            UserError: the state has another number of tasks or environments, or an episode does not repeat exactly.
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
                what = "one whose episodes repeat from seed and actions, so that a run can be resumed"
                raise expected(f"Environment {self._names[place[0]]}", what, "another episode")
        return self._observation

    def close(self) -> None:
        for env in itertools.chain.from_iterable(self._envs):
            env.close()


def reset(env: gymnasium.Env[FloatArray, FloatArray], name: str, seed: int) -> FloatArray:
    """The first observation of an episode.

    Raises:
        UserError: the environment fails, or the observation does not have its space's shape.
    """
    with calling(name, _RESETS):
        observation, _ = env.reset(seed=seed)
        check_shape(name, _RESETS, env, observation)
    return observation


def check_shape(name: str, what: str, env: gymnasium.Env[Any, Any], observation: Any) -> None:
    """Raise UserError unless the observation has its space's shape. what: as in `calling`."""
    found, shape = np.shape(observation), env.observation_space.shape
    if found != shape:
        raise expected(
            f"Environment {name}", f"{what}, with observations of the shape of its space, {shape} when flattened", found
        )


class calling:
    """Turn every error of an environment into a UserError that names the line of its code, if it is known.

    what: what the environment should be, for the message.
    """

    def __init__(self, name: str, what: str) -> None:
        self._name, self._what = name, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):  # the environment may raise any error
            entry = gymnasium.registry[self._name].entry_point if self._name in gymnasium.registry else None
            module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
            raise expected(f"Environment {self._name}", self._what, told(error, module)) from error


def solved_by(info: Mapping[str, Any]) -> Any:
    """The entry `is_success` of an `info`, otherwise its entry `success`, or None if neither has a value."""
    return next((info[name] for name in ("is_success", "success") if info.get(name) is not None), None)
