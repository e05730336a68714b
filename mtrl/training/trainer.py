"""What all training loops have in common: options, and a trainer with steps, reports, evaluations and a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from mtrl.core.config import Options, option, runtime_option
from mtrl.core.errors import UserError, expected
from mtrl.core.specs import Spec
from mtrl.core.types import FloatArray, Metrics
from mtrl.data.images import mixed_seed
from mtrl.training.evaluation import Evaluation, Progress

_WATCHED = ("loss", "grad_norm", "penalty")
"""Metrics of an update whose names end in one of these must be finite."""
_DATA = "the training data's "


@dataclass
class TrainingConfig(Options):
    """When to report, evaluate and save. What a step is depends on the training loop; numbers of steps are per task."""

    option_group: ClassVar[str] = "training"
    specs: ClassVar[tuple[type[Spec], ...]]
    """The kinds of data that the training loop works with."""

    log_every: int = runtime_option(500, "a positive integer")
    """Steps between two rows of metrics."""
    evaluate_every: int = option(0, "0 or more")
    """Steps between two evaluations during training; 0 for none."""
    evaluate_first: bool = False
    """Whether evaluations during training, if there are any, begin before the first step."""
    evaluation_episodes: int = option(5, "a positive integer")
    """Episodes per task in an evaluation during training."""
    final_episodes: int = option(50, "0 or more")
    """Episodes per task in the evaluation at the end; 0 for none."""
    protocol: str = option("goals", ("goals", "upstream"))
    """How evaluations choose goals: each goal once (goals), or drawn with replacement (upstream)."""
    checkpoint_every: int = runtime_option(50_000, "a positive integer")
    """Steps between two checkpoints. One is also saved at the end and on an interrupt."""
    on_nonfinite: str = runtime_option("stop", ("stop", "rollback"))
    """What to do when a loss, gradient, parameter, observation or reward is infinite or NaN: stop, or rollback to the
    last checkpoint and go on from there with other random numbers."""
    max_rollbacks: int = runtime_option(3, "0 or more")
    """With on_nonfinite=rollback: the largest number of rollbacks before a run stops."""

    def evaluates(self, episodes: int) -> str:
        """What an evaluation covers, for messages."""
        return f"{episodes} episode{'s' * (episodes > 1)} of each"


class TrainedAgent(Protocol):
    """What every training loop needs of an agent."""

    config: Any
    device: torch.device
    needs_second_batch: bool
    """Whether an update needs a second batch."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def reseed(self, seed: int) -> None: ...


class NotFinite(UserError):
    """Training has met a number that is infinite, NaN or too large."""


class Trainer:
    """An agent, the data that it learns from, and the state of its training.

    Constructing a trainer is cheap, and is enough to evaluate the agent and use its policy. `start` opens the
    environments, replay and data sets that training needs.
    """

    unit: ClassVar[str] = "env_steps"
    """What steps are, in the plural."""
    headline: str = "success"
    """The name in `report` whose value the progress bar shows."""
    reports_best: ClassVar[bool] = False
    """Whether a run's result has the best evaluation during training in addition to the final one."""

    def __init__(self, config: Any, *, agent: Any, suite: Any, seed: int, steps: int) -> None:
        """steps: the number of steps of each task in the whole run."""
        self.config, self.agent, self.suite, self.seed, self.steps = config, agent, suite, seed, steps
        self.step = 0
        """Steps of each task so far."""
        self.updates = 0
        """Updates so far."""
        self.rollbacks = 0
        """How often the run has gone back to a checkpoint because a number was not finite."""
        self.counted: list[int] | None = None
        """Indexes of the tasks over which means are taken; None for all."""
        self.seconds: dict[str, float] = {}
        """Name of a part of the work -> the seconds that it has taken since the first step."""
        self.rebuild: Callable[[], tuple[Any, Any]] | None = None
        """Builds the agent, on the CPU, and the suite again, in a process that collects steps. It can be pickled."""

    def start(self) -> Self:
        """Open what training needs. Called once, before the first `advance`.

        Raises:
            UserError: something that training needs is missing or does not fit.
        """
        return self

    @property
    def tasks_per_step(self) -> int:
        """How many tasks take a step at once: all T, unless tasks are goals, of which a rollout has only some."""
        return self.suite.spec.num_tasks

    @property
    def random_steps(self) -> int:
        """Steps of random actions before the first update."""
        return 0

    def advance(self) -> Metrics | None:
        """Train for the smallest possible number of steps.

        Returns the metrics of the last update, on the agent's device; None if there was no update.
        """
        raise NotImplementedError

    def report(self) -> dict[str, FloatArray]:
        """name -> (T,), or () where tasks are goals: statistics of the training data since the last report.

        A task without data has NaN.
        """
        return {}

    def facts(self) -> dict[str, Any]:
        """Further facts about the training, in types of JSON, for the run's result."""
        return {}

    def pictures(self, example: int = 0) -> dict[str, Any]:
        """name -> uint8 picture (H, W, 3) by which a user checks the agent, such as its prediction for a test example.

        example: the index of the test example.
        """
        return {}

    @property
    def policy(self) -> Callable[..., Any]:
        """The agent's deterministic policy: a function whose arguments and result depend on the kind of data."""
        raise NotImplementedError

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> Any:
        """The output of the deterministic policy for one task.

        Args:
            observation: one example or B examples; the shape depends on the kind of data.
            task: the index of the task in the suite; None where a goal is given.
            stage: for keyframe tasks, the number of keyframes already reached.
            goal: where tasks are goals, a goal (C,), known or new.

        Raises:
            UserError: the observation does not fit.
        """
        raise NotImplementedError

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Evaluation:
        """Evaluate the deterministic policy.

        Args:
            episodes: the number of episodes of each task.
            protocol: how goals are chosen: goals or upstream (see `training.evaluation`).
            progress: called as the evaluation goes on.
        """
        raise NotImplementedError

    def guide(self) -> Any:
        """The policy from which another run may start (`begin_from`).

        Raises:
            UserError: no run can start from this kind of training.
        """
        raise expected("Option `start`", "a run of agent=mbml", type(self.agent).__name__)

    def begin_from(self, source: Any) -> None:
        """Start from the policy of another run. Called before `start`.

        source: loads the policy, and returns it with the run's step.

        Raises:
            UserError: this kind of training cannot start from one.
        """
        raise expected("Option `start`", "left out where training is not off_policy", self.config.kind)

    def load_guide(self) -> None:
        """Load the policy of `begin_from`, if it is still needed. Called before the first step.

        Raises:
            UserError: it cannot be loaded.
        """

    def largest_data(self) -> dict[str, FloatArray]:
        """name -> (T,): the largest absolute values in all training data; NaN, or infinite, if one cannot be used."""
        return {}

    def check_finite(self, metrics: Metrics) -> None:
        """Check the training data so far, the last update's losses and gradient norms, and the agent's state.

        The state includes that of the optimisers, in which an infinite gradient of any update remains. Waits for the
        device, but copies only one boolean of each tensor to the host.

        Raises:
            NotFinite: a number is not finite. The message names the quantity, the step and, where known, the tasks.
        """
        groups: list[dict[str, Tensor]] = [
            {f"{_DATA}{name}": torch.from_numpy(largest) for name, largest in self.largest_data().items()},
            {name: value for name, value in metrics.items() if name.endswith(_WATCHED)},
            {f"the agent's {name}": value for name, value in _tensors(self.agent.state_dict())},
        ]
        unsound = _unsound({name: value for group in groups for name, value in group.items()})
        if unsound:
            first = [next((name for name in group if name in unsound), None) for group in groups]
            found = [_described(name, unsound[name], self.suite.spec.tasks) for name in first if name]
            raise NotFinite(f"Training's numbers should be finite. Found at step {self.step} {' and '.join(found)}.")

    @property
    def stream(self) -> int:
        """The seed of training's random numbers: that of the run, and another one after each rollback."""
        return mixed_seed(self.seed, self.rollbacks) if self.rollbacks else self.seed

    def reseed(self) -> None:
        """Seed PyTorch's and the agent's random numbers by `stream`."""
        torch.manual_seed(self.stream)
        self.agent.reseed(self.stream)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs except `data_state`, in types that a checkpoint can hold."""
        counts = {"step": self.step, "updates": self.updates, "rollbacks": self.rollbacks}
        return counts | {"agent": self.agent.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.updates, self.rollbacks = state["step"], state["updates"], state["rollbacks"]
        self.agent.load_state_dict(state["agent"])

    def data_state(self) -> dict[str, Any]:
        """The large part of the state, such as a replay; {} if there is none.

        It may hold views, so it must be saved (`monitoring.checkpoints.save`) before the next step.
        """
        return {}

    @property
    def data_bytes(self) -> int:
        """Bytes that `start` allocates for `data_state`; 0 if that is not large."""
        return 0

    def changed_bytes(self, steps: int) -> int:
        """How many of `data_bytes` a checkpoint writes at most, `steps` steps after the previous one."""
        return self.data_bytes

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Load what `data_state` returned."""

    def close(self) -> None:
        """Close what `start` opened."""


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The named tensors of a nested state, except those of diagnostics, in which NaN means "not yet computed"."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not str(key).startswith("diagnostics."):
                yield from _tensors(item, f"{name}/{key}" if name else str(key))


def _unsound(numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in which a number is not finite. Copies once to the host from each device."""
    extremes: dict[torch.device, dict[str, Tensor]] = {}
    for name, value in numbers.items():
        if value.is_floating_point() and value.numel():
            extremes.setdefault(value.device, {})[name] = torch.stack(torch.aminmax(value.detach())).double()
    unsound: dict[str, Tensor] = {}
    for found in extremes.values():
        sound = torch.stack(list(found.values())).isfinite().all(-1).tolist()
        unsound |= {name: numbers[name] for name, fine in zip(found, sound, strict=True) if not fine}
    return unsound


def _described(name: str, value: Tensor, tasks: Sequence[str]) -> str:
    """A text that says what is not finite and, where the tensor has a row for each task, in which tasks."""
    large = "a number too large to learn from" if name.startswith(_DATA) else "an infinite number"
    what = f"{'NaN' if bool(value.isnan().any()) else large} in {name}"
    if value.shape[:1] != (len(tasks),) or "optimizer" in name:
        return what
    if "shared." in name:
        return f"{what} (shared by all tasks)"
    bad: list[int] = (~value.reshape(len(tasks), -1).isfinite().all(1)).nonzero().flatten().tolist()
    if len(bad) == len(tasks) > 1:
        return f"{what} (all tasks)"
    return f"{what} ({'task' if len(bad) == 1 else 'tasks'} {', '.join(tasks[i] for i in bad)})"
