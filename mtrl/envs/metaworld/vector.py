"""The batched engine as a ``gymnasium.vector.VectorEnv``, for any library: ``gymnasium.make_vec("mtrl/MT10-v3", ...)``.

Importing `mtrl.envs.metaworld` registers ``mtrl/MT1-v3``, ``mtrl/MT10-v3``, ``mtrl/MT25-v3``, ``mtrl/MT50-v3`` and
``mtrl/custom-mt-envs-v3``. With hidden goals there are ``mtrl/ML1-train-v3`` and ``mtrl/ML1-test-v3``, and the same two
for ML10, ML25, ML45 and custom-ml-envs. ``gymnasium.make("mtrl/MT1-v3", task=...)`` makes a single environment.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from mtrl.core.errors import expected
from mtrl.core.types import StepResult
from mtrl.envs.metaworld.arguments import META_LEARNING, MULTI_TASK, Split, in_words_of_arguments, parse
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.goals import GoalDraws
from mtrl.envs.metaworld.observing import Observation, Observer, unbatched

Array = NDArray[Any]
_SPLITS: tuple[Split, ...] = ("train", "test")
_TOGGLES = ("terminate_on_success", "sample_tasks_on_reset")
"""The attributes that can be set."""


class MetaWorldVectorEnv(VectorEnv):
    """T tasks × N copies; sub-environment ``t · N + n`` is copy n of task t.

    With `autoreset_mode` at its default, ``AutoresetMode.SAME_STEP``, an ended episode restarts in the same step.
    ``info["final_obs"]`` and ``info["final_info"]`` then describe its end, with the episode's statistics in
    ``info["final_info"]["episode"]``: return r, length l and seconds t. ``info`` has Meta-World's own entries, such as
    success, for every sub-environment, except in ``AutoresetMode.NEXT_STEP`` those that only restart. Its entry
    ``faults`` counts how often each sub-environment has failed since its last reset (with ``NEXT_STEP``, since its last
    restart). An object made by `copy` or `pickle` continues bit for bit.

    Args:
        kind: mt1, mt10, mt25, mt50, custom-mt-envs; ml1, ml10, ml25, ml45, custom-ml-envs.
        num_envs: T · N; 1 stands for one copy of each task.
        split: train or test in meta-learning, where goals are hidden; otherwise empty.
        arguments: see `Arguments`.

    Raises:
        UserError: an argument is unknown or has an impossible value.
    """

    def __init__(self, kind: str, num_envs: int = 1, *, split: Split = "", **arguments: Any) -> None:
        self._made_by = {"kind": kind, "num_envs": num_envs, "split": split, **arguments}
        with in_words_of_arguments():
            given = parse(kind, split, {"num_envs": num_envs, **arguments})
            goals, reward_version = given.goals(), given.reward_function_version
            self.tasks = tuple(goals)
            count = len(self.tasks) if given.num_envs == 1 else given.num_envs
            if count % len(self.tasks):
                raise expected("Argument `num_envs`", f"a multiple of {len(self.tasks)}", given.num_envs)
            in_turn = given.task_select == "pseudorandom"
            draws = GoalDraws([len(found) for found in goals.values()], count // len(goals), in_turn)
            self.envs = BatchedEnvs(
                goals, given.seed or 0, count // len(goals), reward_version=reward_version,
                horizon=given.max_episode_steps or 500, terminate_on_success=bool(given.terminate_on_success),
                threads=given.threads, with_info=True, draws=draws,
            )  # fmt: skip
        # Copies must have the same goals, even if the seed was None.
        self._made_by["seed"] = given.seed
        self.arguments, self.num_envs = given, count
        self.autoreset_mode = AutoresetMode(given.autoreset_mode)
        self.envs.autoreset, self.envs.keeps_goals = self.autoreset_mode == AutoresetMode.SAME_STEP, in_turn
        self.render_mode = given.render_mode
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": ["rgb_array"], "render_fps": 80}
        self._observe = Observer(self.envs, given)
        self.single_observation_space = self._observe.space
        self.single_action_space = Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._started = False
        self._returns, self._lengths, self._begun = np.zeros(count), np.zeros(count, np.int64), np.zeros(count)
        self._waiting = np.zeros(count, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Restart episodes. Returns observations (num_envs, O), or what the argument `observation` asks for.

        Args:
            seed: decides the new episodes' goals and all later ones. It is one number, or a list with one for each
                sub-environment, where None continues a stream of goals. Without a seed, all streams continue.
            options: {"reset_mask": (num_envs,) bool}: the sub-environments to restart. The others do not change. The
                first reset ignores it and restarts all.

        Raises:
            UserError: the list of seeds has another length, or the mask another shape or type or no true value.
        """
        which = self._mask(options) if self._started else np.ones(self.num_envs, np.bool_)
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed), options=options)
        elif len(seed) != self.num_envs:
            raise expected("Argument `seed`", f"one number, or a list of {self.num_envs}", f"{len(seed)} numbers")
        if not self._started:
            self.envs.reset(int(seed) if isinstance(seed, int | np.integer) else None)
            self._started = True
            given = np.zeros_like(which) if seed is None or isinstance(seed, int | np.integer) else _given(seed)
            observation = self._restart(seed, given) if given.any() else self.envs.observation
        else:
            observation = self._restart(seed, which)
        self._begin(which)
        return self._observe(observation), {}

    def _begin(self, which: NDArray[np.bool_]) -> None:
        """Begin to count the episodes of these copies."""
        self._returns[which], self._lengths[which], self._waiting[which] = 0, 0, False
        self._begun[which] = time.perf_counter()

    def _restart(self, seed: Any, which: NDArray[np.bool_]) -> Array:
        if isinstance(seed, int | np.integer) and which.all():
            return self.envs.reset(int(seed))
        if isinstance(seed, int | np.integer):
            seed = np.random.SeedSequence(int(seed)).generate_state(self.num_envs, np.uint64).tolist()
        reseeded = np.zeros(self.num_envs, np.bool_)
        if seed is not None:
            seeds = [one if chosen else None for one, chosen in zip(seed, which, strict=True)]
            self.envs.seed(seeds)
            reseeded[:] = _given(seeds)
        shape = len(self.tasks), -1
        return self.envs.restart(which.reshape(shape), new_goals=reseeded.reshape(shape))

    def _mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        found = np.asarray(mask)
        if found.shape != (self.num_envs,) or found.dtype != np.bool_ or not found.any():
            what = f"{self.num_envs} truth values (bool), at least one of them true"
            raise expected("The option `reset_mask`", what, f"{found.dtype} of shape {found.shape}")
        return found

    def step(self, actions: Array) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        """Step with actions (num_envs, 4) in [-1, 1]. Returned arrays are copies, except observations with copy=False.

        Raises:
            UserError: the actions have another shape.
            ResetNeeded: `reset` has not been called.
        """
        if np.shape(actions) != (self.num_envs, 4):
            raise expected("Actions", f"of shape {(self.num_envs, 4)}", np.shape(actions))
        if not self._started:
            raise gymnasium.error.ResetNeeded("Call `reset` before `step`.")
        result = self.envs.step(np.reshape(actions, (len(self.tasks), -1, 4)))
        reward = result.reward.reshape(-1).copy()
        terminated, truncated = result.terminated.reshape(-1).copy(), result.truncated.reshape(-1).copy()
        if self._waiting.any():
            self.envs.restart(self._waiting.reshape(len(self.tasks), -1))
            reward[self._waiting], terminated[self._waiting], truncated[self._waiting] = 0, False, False
        ended = terminated | truncated
        self._returns += reward
        self._lengths += ~self._waiting
        info = self._info(result, ~self._waiting)
        if ended.any() and self.envs.autoreset:
            info |= self._final(result, ended)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._waiting = ended
        self._returns[ended], self._lengths[ended], self._begun[ended] = 0, 0, time.perf_counter()
        return self._observe(result.observation), reward, terminated, truncated, info

    def _final(self, result: StepResult, ended: NDArray[np.bool_]) -> dict[str, Any]:
        final = np.full(self.num_envs, None, dtype=object)
        reached = self._observe.final(result.next_observation)
        for i in np.flatnonzero(ended):
            final[i] = reached[i]
        values = {"r": self._returns, "l": self._lengths, "t": time.perf_counter() - self._begun}
        episode = {name: np.where(ended, value, 0) for name, value in values.items()}
        episode |= {f"_{name}": ended.copy() for name in values}
        last = self._info(result, ended) | {"episode": episode, "_episode": ended.copy()}
        return {"final_obs": final, "final_info": last, "_final_obs": ended.copy(), "_final_info": ended.copy()}

    def _info(self, result: StepResult, which: NDArray[np.bool_]) -> dict[str, Any]:
        """Meta-World's entries with gymnasium's masks. They are zero for sub-environments outside `which`."""
        terms = {**self.envs.info(), "unscaled_reward": result.reward, "faults": self.envs.faults}
        info = {name: np.where(which, value.reshape(-1), 0) for name, value in terms.items()}
        return info | {f"_{name}": which.copy() for name in terms}

    def render(self) -> tuple[Array, ...] | None:
        """A picture (height, width, 3) of each sub-environment; None without a render mode.

        Raises:
            RenderingUnavailable: there is no offscreen OpenGL.
        """
        return None if self.render_mode is None else self._observe.render()

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The value of an attribute for every sub-environment. It must be one that Meta-World's own loops use.

        Raises:
            AttributeError: it is another attribute.
        """
        copies = self.num_envs // len(self.tasks)
        if name == "task_name":
            return tuple(ALL_V3_ENVIRONMENTS[task].__name__ for task in self.tasks for _ in range(copies))
        values = {
            "terminate_on_success": self.envs.terminate_on_success,
            "sample_tasks_on_reset": not self.envs.keeps_goals,
            "max_path_length": self.arguments.max_episode_steps,
            "reward_function_version": self.arguments.reward_function_version,
            "render_mode": self.render_mode,
            "observation_space": self.single_observation_space,
            "action_space": self.single_action_space,
        }
        if name not in values:
            known = ", ".join(("task_name", *values))
            raise AttributeError(f"An attribute should be one of {known}. Found {name!r}.")
        return (values[name],) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set `terminate_on_success` or `sample_tasks_on_reset` to the same value in all sub-environments.

        Raises:
            UserError: it is another attribute, or there are several values.
        """
        distinct = set(values) if isinstance(values, list | tuple) else {values}
        if name not in _TOGGLES or len(distinct) != 1:
            what = "terminate_on_success or sample_tasks_on_reset, with one value for all sub-environments"
            raise expected("An attribute to set", what, f"{name} = {values}")
        value = bool(distinct.pop())
        if name == "terminate_on_success":
            self.envs.terminate_on_success = value
        else:
            self.envs.keeps_goals = not value

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every sub-environment, or get an attribute. Returns the result for each sub-environment.

        The methods are render and those that Meta-World's own loops call: toggle_terminate_on_success,
        toggle_sample_tasks_on_reset and sample_tasks, which returns pairs of an observation and {}.
        """
        if name.startswith("toggle_"):
            self.set_attr(name.removeprefix("toggle_"), *args, *kwargs.values())
            return (None,) * self.num_envs
        if name == "sample_tasks":
            if not self._started:
                self.reset()
            everything = np.ones(self.num_envs, np.bool_)
            restarted = self.envs.restart(everything.reshape(len(self.tasks), -1), new_goals=True)
            observation = self._observe(restarted)
            self._begin(everything)
            return tuple((row, {}) for row in unbatched(observation))
        return self.render() or () if name == "render" else self.get_attr(name)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs."""
        own = {"returns": self._returns.tolist(), "lengths": self._lengths.tolist(), "waiting": self._waiting.tolist()}
        toggles = {"terminate_on_success": self.envs.terminate_on_success, "keeps_goals": self.envs.keeps_goals}
        return {"envs": self.envs.state_dict(), **own, **toggles}

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Restore a saved state. Returns its observations."""
        self.envs.terminate_on_success = state["terminate_on_success"]
        self.envs.keeps_goals = state["keeps_goals"]
        observation = self._observe(self.envs.load_state_dict(state["envs"]))
        self._returns, self._lengths = np.array(state["returns"]), np.array(state["lengths"], np.int64)
        self._waiting, self._started = np.array(state["waiting"], np.bool_), True
        self._begun[:] = time.perf_counter()
        return observation

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("single_observation_space", "single_action_space", "observation_space", "action_space")
        kept = {name: copy.deepcopy(getattr(self, name)) for name in (*names, "_np_random", "_np_random_seed", "spec")}
        toggles = {name: self.get_attr(name)[0] for name in _TOGGLES}
        return _copied, (self._made_by, self.state_dict() if self._started else None, kept, toggles)

    def close_extras(self, **kwargs: Any) -> None:
        if "_observe" in vars(self):  # missing if the arguments were refused
            self._observe.close()
            self.envs.close()


def _given(seeds: Sequence[int | None]) -> NDArray[np.bool_]:
    return np.array([seed is not None for seed in seeds])


def _copied(
    arguments: dict[str, Any], state: dict[str, Any] | None, kept: dict[str, Any], toggles: dict[str, bool]
) -> MetaWorldVectorEnv:
    envs = MetaWorldVectorEnv(**arguments)
    for name, value in toggles.items():
        envs.set_attr(name, value)
    if state is not None:
        envs.load_state_dict(state)
    vars(envs).update(kept)
    return envs


def register() -> None:
    """Register the environments that the module's docstring names."""
    forms: list[tuple[str, str, Split]] = []
    for kind in MULTI_TASK:
        forms.append((f"mtrl/{kind.upper() if kind.startswith('mt') else kind}-v3", kind, ""))
    for kind in ("ml1", *META_LEARNING, "custom-ml-envs"):
        shown = kind.upper() if kind.startswith("ml") else kind
        for split in _SPLITS:
            forms.append((f"mtrl/{shown}-{split}-v3", kind, split))
    for name, kind, split in forms:
        if name not in gymnasium.registry:
            one = f"{__package__}.single:MetaWorldEnv"
            options = {"kind": kind} | ({"split": split} if split else {})
            gymnasium.register(name, one, vector_entry_point=f"{__name__}:MetaWorldVectorEnv", kwargs=options)
