"""The base classes of benchmarks: a configuration, which states the kind of data, and a suite of tasks made from it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from mtrl.core.config import Options, check, option
from mtrl.core.errors import UserError, expected
from mtrl.core.specs import Spec

EPISODES = "--episodes or training.final_episodes"
"""The options for the number of evaluation episodes, for error messages."""
_LISTED = 20
"""The most names that an error message lists."""


@dataclass
class SuiteConfig(Options):
    """The base class of the options of every benchmark."""

    option_group: ClassVar[str] = "benchmark"
    spec_type: ClassVar[type[Spec]]
    """The class of the suite's `spec`."""
    defaults: ClassVar[Mapping[str, str]] = {}
    """Option -> default for this benchmark, where it differs from the defaults of `spec_type`."""

    kind: str = ""

    @property
    def name(self) -> str:
        """The benchmark's name in results and in the folders of runs."""
        return self.kind

    def restricted(self, tasks: Sequence[str]) -> Self:
        """The same benchmark with only these tasks, in this order.

        Raises:
            UserError: the benchmark always has all its tasks, or there is no such task. For image and dense benchmarks,
                it is raised when the suite is built.
        """
        raise expected(f"Benchmark {self.kind}", "one whose tasks can be chosen", "a fixed set of tasks")


@dataclass
class ChosenTasks(SuiteConfig):
    """Options of a benchmark whose tasks can be chosen."""

    tasks: list[str] = field(default_factory=list, kw_only=True)
    """The names of the tasks to use, in this order. All tasks if empty."""

    def restricted(self, tasks: Sequence[str]) -> Self:
        return replace(self, tasks=list(tasks))

    def check_tasks(self, known: Iterable[str], source: str = "") -> None:
        """Raise UserError where `tasks` has a name twice, or one that is not in `known`.

        source: text that follows the known names in the message, and says where they come from.
        """
        check(len(set(self.tasks)) == len(self.tasks), "benchmark.tasks", "a list without duplicates", list(self.tasks))
        names = list(known)
        for task in self.tasks:
            if task not in names:
                near = difflib.get_close_matches(task, names, n=3, cutoff=0.5)
                hint = f" Did you mean {' or '.join(near)}?" if near else ""
                listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
                raise UserError(f"Option `benchmark.tasks` should name some of {listed}{source}. Found {task!r}.{hint}")


@dataclass
class FamilyConfig(ChosenTasks):
    """Options of a benchmark whose tasks differ only by their goal, a number that observations do not contain."""

    defaults: ClassVar[Mapping[str, str]] = {"network": "mlp"}

    num_tasks: int = option(10, "a positive integer")
    """The number of training goals, named goal-0 and so on. It is T, unless `tasks` chooses some by name."""
    unseen_tasks: int = option(8, "a positive integer")
    """The number of goals held out for evaluation, named unseen-0 and so on."""
    goal_seed: int = option(0, "0 or more")
    """The seed from which the goals are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_tasks([*self._names("goal", self.num_tasks), *self._names("unseen", self.unseen_tasks)])

    @staticmethod
    def _names(kind: str, count: int) -> list[str]:
        return [f"{kind}-{number}" for number in range(count)]

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the suite's tasks."""
        return tuple(self.tasks or self._names("goal", self.num_tasks))

    def held_out(self) -> Self:
        """The same benchmark with the held-out goals as its tasks."""
        return self.restricted(self._names("unseen", self.unseen_tasks))

    def goal(self, task: str) -> float:
        """A task's goal as a number in [0, 1). Of n goals, goal t is drawn uniformly from [t / n, (t + 1) / n)."""
        kind, _, number = task.partition("-")
        count = self.unseen_tasks if kind == "unseen" else self.num_tasks
        jitter = np.random.default_rng((self.goal_seed, kind == "unseen")).random(count)
        return float((int(number) + jitter[int(number)]) / count)


_Config = TypeVar("_Config", bound=SuiteConfig)
_Spec = TypeVar("_Spec", bound=Spec)


class Suite(Generic[_Config, _Spec]):
    """A benchmark: named tasks whose data have the same shapes.

    A suite also has the methods that its training loop needs, such as `make_envs`. Abilities that only some suites have
    are methods of this class that raise `UserError` unless a suite overrides them.
    """

    config: _Config
    spec: _Spec
    panels: Sequence[tuple[str, str]] = ()
    """(metric, title) of each panel in a run's plot, for suites with too many tasks for a panel each."""
    step_scale: int = 1
    """The number of environment steps in one step of a run, for the plot with `panels`."""
    parallel_demonstrations: bool = True
    """Whether several processes may collect demonstrations at once."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.spec.tasks

    @property
    def unseen(self) -> Suite[Any, Any]:
        """The suite on which agents that infer their task are evaluated: the held-out tasks, or if none, all."""
        return self

    def description(self) -> dict[str, Any]:
        """Every choice that changes what a result means: reward version, horizon, goals, package versions."""
        raise NotImplementedError

    def check_evaluation(self) -> None:
        """Raise UserError where something that an evaluation needs, such as a simulator, is missing."""

    def film(self, policy: Callable[..., Any], path: Path, seed: int) -> None:
        """Write a video of episodes that `policy` plays (see `Trainer.policy`).

        Raises:
            UserError: the suite cannot be rendered, or a package for it is missing.
        """
        raise UserError(f"{self.name} has no pictures.")

    def demonstrations(self, seed: int, episodes: int, every_frame: bool = False) -> Iterable[Any]:
        """Demonstrations (`data.demos.Demo`) by the benchmark's experts: `episodes` of each task, task by task.

        every_frame: whether every frame has the images of all cameras, as in RLBench's folders. Otherwise only the
        frames at which the policy decides have images, and only those of the policy's cameras.

        Raises:
            UserError: the benchmark has no experts.
        """
        raise expected(f"Benchmark {self.name}", "one with experts, such as benchmark=keyframes", "none")
