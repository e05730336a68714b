"""The arguments of the vector environments, under gymnasium's and Meta-World's names."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import metaworld.env_dict as env_dict
import numpy as np
from gymnasium.vector import AutoresetMode
from metaworld.types import Task

from mtrl.core.errors import UserError, expected
from mtrl.envs.metaworld.suite import BENCHMARKS, Config, MetaWorldSuite, draw_goals

Split = Literal["", "train", "test"]

META_LEARNING = {"ml10": env_dict.ML10_V3, "ml25": env_dict.ML25_V3, "ml45": env_dict.ML45_V3}
_ALIASES = {
    "env_name": "task", "envs_list": "tasks", "train_envs": "tasks", "test_envs": "tasks",
    "meta_batch_size": "num_envs", "total_tasks_per_cls": "num_goals",
}  # fmt: skip
"""Meta-World's name for an argument -> ours."""
_WORDS = {
    "benchmark.tasks": "task", "benchmark.reward_version": "reward_function_version",
    "benchmark.horizon": "max_episode_steps", "benchmark.num_goals": "num_goals",
}  # fmt: skip
"""Command-line option -> the argument that means the same."""
_LARGEST = 4096
"""The most pixels along a side of a picture."""
_ELSEWHERE = {
    "reward_normalization_method": "gymnasium.wrappers.vector.NormalizeReward",
    "normalize_observations": "gymnasium.wrappers.vector.NormalizeObservation",
}
"""Meta-World's argument -> the wrapper that replaces it here."""


@dataclass
class Arguments:
    """The arguments of `gymnasium.make_vec("mtrl/MT10-v3", ...)` and similar calls.

    Raises:
        UserError: a value is not allowed, or an argument is missing or does not fit the kind of environments.
    """

    num_envs: int = 1
    """T · N, the copies of all tasks together; 1 stands for one copy of each task. In meta-learning, also called
    `meta_batch_size`."""
    task: str | None = None
    """The one task of MT1 and ML1, also called `env_name`."""
    tasks: Sequence[str] = ()
    """The tasks of a custom list, also called `envs_list`, or `train_envs` and `test_envs`."""
    seed: int | None = 0
    """Seed of the benchmark's goals, and of their order until `reset` gets another seed; None draws a random seed."""
    use_one_hot: bool = False
    """Append the task's one-hot code (T,) to the observation (39,)."""
    reward_function_version: str = "v2"
    """The version of Meta-World's rewards, v1 or v2."""
    terminate_on_success: bool | None = None
    """Whether episodes end at success; by default only in the test split of a meta-learning benchmark."""
    max_episode_steps: int | None = 500
    """Steps after which an episode is truncated, 1 to 500; None means 500."""
    num_goals: int | None = 50
    """Goals per task, 1 to 50: the first of the benchmark's 50; None means 50."""
    task_select: str | None = None
    """random: each reset draws any of the goals (the default in multi-task learning). pseudorandom: each copy has its
    own goals and keeps a goal until `call("sample_tasks")` takes the next one (the default in meta-learning)."""
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP
    """When an ended episode restarts: in the same step, in the next one, or only by `reset(options=...)`."""
    observation: str = "state"
    """state: vectors (39,); pixels: pictures (height, width, 3) uint8; both: {"state": ..., "pixels": ...}."""
    render_mode: str | None = None
    """rgb_array or None."""
    camera_name: str | Sequence[str] = "corner2"
    """The camera of the pictures. With a list of K cameras, observations are (K, height, width, 3)."""
    width: int | None = None
    """Width of the pictures in pixels, 1 to 4096: by default 84 if they are observations, otherwise 480. Pictures are
    square if only the width or only the height is given."""
    height: int | None = None
    """Height of the pictures in pixels; see `width`."""
    copy: bool = True
    """Whether each step returns new observation arrays. If not, the next step overwrites them, which is faster."""
    threads: int | None = None
    """The number of threads that step the copies; by default one per core, but not more than there are copies."""
    vector_strategy: str = "sync"
    """sync or async, for compatibility. There is no difference: threads step all copies at once."""

    kind: str = field(default="", kw_only=True)
    split: Split = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _check_choice("vector_strategy", self.vector_strategy, ("sync", "async"))
        _check_choice("task_select", self.task_select, (None, "random", "pseudorandom"))
        _check_choice("render_mode", self.render_mode, (None, "rgb_array"))
        _check_choice("observation", self.observation, ("state", "pixels", "both"))
        if not self.cameras:
            raise expected("Argument `camera_name`", "the name of a camera, or several names", self.camera_name)
        for side in ("width", "height"):
            if (found := getattr(self, side)) is not None and not 1 <= found <= _LARGEST:
                raise expected(f"Argument `{side}`", f"1 to {_LARGEST} pixels", found)
        for name in ("num_envs", "threads"):
            if (found := getattr(self, name)) is not None and found < 1:
                raise expected(f"Argument `{name}`", "1 or more", found)
        modes = tuple(mode.value for mode in AutoresetMode)
        if not isinstance(self.autoreset_mode, AutoresetMode):
            _check_choice("autoreset_mode", self.autoreset_mode, modes)
            self.autoreset_mode = AutoresetMode(self.autoreset_mode)
        single = self.kind in ("mt1", "ml1")
        if single and self.task is None:
            raise expected("Argument `task`", "the name of one of Meta-World's tasks, such as 'reach-v3'", self.task)
        custom = self.kind.startswith("custom")
        if custom and (isinstance(self.tasks, str) or not self.tasks):
            raise expected("Argument `tasks`", "a list of task names, such as ['reach-v3']", self.tasks)
        if not single and self.task is not None:
            raise expected("Argument `task`", f"left out for {self.kind}, which has several", self.task)
        if not custom and self.tasks:
            raise expected("Argument `tasks`", "left out: mtrl/custom-mt-envs-v3 takes lists", self.tasks)
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if self.seed is None else self.seed
        self.max_episode_steps = 500 if self.max_episode_steps is None else self.max_episode_steps
        self.num_goals = 50 if self.num_goals is None else self.num_goals
        if self.terminate_on_success is None:
            self.terminate_on_success = self.split == "test"
        self.task_select = self.task_select or ("pseudorandom" if self.split else "random")

    @property
    def cameras(self) -> tuple[str, ...]:
        return (self.camera_name,) if isinstance(self.camera_name, str) else tuple(self.camera_name)

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of the pictures, in pixels."""
        usual = 480 if self.observation == "state" else 84
        return self.height or self.width or usual, self.width or self.height or usual

    def config(self) -> Config:
        """The configuration of these tasks as a benchmark.

        Raises:
            UserError: a value is not allowed.
        """
        names = [self.task] if self.task is not None else list(self.tasks)
        kind = self.kind
        assert self.max_episode_steps is not None and self.num_goals is not None, "set in __post_init__"
        if self.split:
            whole = META_LEARNING.get(self.kind)
            names, kind = (list(whole[self.split]) if whole else names), "custom"
        return Config(
            "custom" if kind.startswith("custom") else kind, tasks=names,
            reward_version=self.reward_function_version, horizon=self.max_episode_steps,
            num_goals=self.num_goals, terminate_on_success=bool(self.terminate_on_success),
        )  # fmt: skip

    def goals(self) -> dict[str, list[Task]]:
        """{task: its goals}, which are those that Meta-World makes from this seed."""
        seed, suite = self.seed or 0, MetaWorldSuite(self.config())
        if not self.split:
            return suite.goals(seed)
        # As in Meta-World, the test goals of ML1 come from the next seed.
        found = draw_goals(tuple(suite.tasks), seed + (self.kind == "ml1" and self.split == "test"), True)
        return {task: goals[: self.num_goals] for task, goals in found.items()}


def parse(kind: str, split: Split, given: dict[str, Any]) -> Arguments:
    """Read the arguments of an environment. Meta-World's names are accepted.

    Raises:
        UserError: an argument is unknown, or its value is not allowed.
    """
    known = [f.name for f in fields(Arguments) if f.name not in ("kind", "split")]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _ELSEWHERE and value not in (None, False):
            raise expected(f"Argument `{name}`", f"left out: {_ELSEWHERE[name]} is the wrapper for it", value)
        if name in _ELSEWHERE or (name in ("train_envs", "test_envs") and name != f"{split}_envs"):
            continue
        if (ours := _ALIASES.get(name, name)) not in known:
            near = difflib.get_close_matches(name, [*known, *_ALIASES], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Arguments of these environments should be {', '.join(known)}. Found {name!r}.{hint}")
        if ours != "camera_name" or value is not None:  # Meta-World's default is None
            values[ours] = value
    return Arguments(**values, kind=kind, split=split)


@contextlib.contextmanager
def in_words_of_arguments() -> Iterator[None]:
    """Turn errors about command-line options into errors about the corresponding arguments."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"Option `([\w.]+)`", lambda m: f"Argument `{_WORDS.get(m[1], m[1])}`", str(error))
        raise UserError(text) from error


def _check_choice(name: str, found: Any, choices: Sequence[Any]) -> None:
    if found not in choices:
        listed = ", ".join(str(choice) for choice in choices if choice is not None)
        raise expected(f"Argument `{name}`", f"one of {listed}", found)


MULTI_TASK = ("mt1", *BENCHMARKS, "custom-mt-envs")
"""The kinds of environments that have no train and test split."""
