"""The few types that every part of the toolkit shares.

Letters are fixed project-wide: T tasks, B batch per task, N environments per task,
O and A observation and action size, E ensemble members, P parameters.
A batch is task-major: the first axis is always the task, in the suite's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mtrl.core.subset import ALL_TASKS, TaskSubset

Tensors = Mapping[str, Tensor]
Metrics = dict[str, Tensor]
FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


class Transitions(NamedTuple):
    """A task-major batch of transitions."""

    observation: Tensor
    """(T, B, O)"""
    action: Tensor
    """(T, B, A)"""
    reward: Tensor
    """(T, B)"""
    next_observation: Tensor
    """(T, B, O): the true successor, never the first observation of the next episode."""
    terminated: Tensor
    """(T, B) float, 1 where the successor is absorbing. A truncation is not a termination."""
    subset: TaskSubset = ALL_TASKS
    """The tasks of the batch: all of the suite's, in its order, or T of them."""


class TaskLoss(Protocol):
    """The one definition of a learner's losses, from which every gradient is taken.

    `shared` maps a name to a tensor of its own shape, or, where per-task gradients are wanted, to a
    view with a task axis of stride 0 in front: (T, *shape). `own` and `own_buffers` map to (T, *shape).
    Returns the losses (T,) and auxiliary tensors (metrics and new buffers), which carry no gradient.
    """

    def __call__(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Tensor, Metrics]: ...


class TaskParameters(Protocol):
    """What the optimiser needs of a network: its trained tensors, split into shared and owned ones."""

    num_tasks: int
    ensemble: int | None
    shared_input: bool
    """Whether all tasks see the same inputs, whose task axis is 1: one forward of what is shared serves them all."""
    shared: Any
    """name -> parameter (*shape)"""
    own: Any
    """name -> parameter (T, *shape)"""

    @property
    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        """(shared, own, own_buffers), as a `TaskLoss` takes them."""
        ...

    def per_task_leaves(self) -> dict[str, Tensor]:
        """The shared tensors with a task axis of stride 0 in front, as leaves that need a gradient where trained."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def at(self, subset: TaskSubset) -> TaskParameters:
        """The network as the tasks of a batch see it, with `own` of all tasks; itself where they are all."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What one step of all environments gives. The arrays are reused by the next step: copy to keep."""

    observation: FloatArray
    """(T, N, O): what to act on next; the first observation of a new episode where one ended."""
    reward: FloatArray
    """(T, N)"""
    terminated: BoolArray
    """(T, N)"""
    truncated: BoolArray
    """(T, N)"""
    next_observation: FloatArray
    """(T, N, O): the true successor of the observation acted on; equals `observation` inside an episode."""
    success: BoolArray
    """(T, N): whether the task is solved in the state just reached."""
    measures: Mapping[str, FloatArray] = field(default_factory=dict)
    """{name: (T, N)}: what else is known of the state just reached; an episode is judged by its last."""


class TaskVectorEnv(Protocol):
    """All tasks of a suite, N copies each, stepped at once; an ended episode restarts in the same step."""

    num_tasks: int
    envs_per_task: int

    def reset(self, seed: int | None = None) -> FloatArray:
        """Start every episode anew and return the first observations (T, N, O)."""
        ...

    def step(self, action: FloatArray) -> StepResult:
        """Apply actions (T, N, A) in [-1, 1]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly from here (tensors, numbers, strings and containers of them)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        """Go back to a saved state and return its observations (T, N, O)."""
        ...

    def close(self) -> None: ...


class Suite(Protocol):
    """A benchmark: named tasks whose data have the same shapes."""

    name: str
    tasks: Sequence[str]
    sizes: Mapping[str, Any]
    """What an agent is told of the data, as keyword arguments: observation_size, action_size, ..."""

    def description(self) -> dict[str, Any]:
        """Every choice that changes what a result means: reward version, horizon, goals, versions."""
        ...


class ControlSuite(Suite, Protocol):
    """A benchmark of environments that an agent acts in."""

    observation_size: int
    action_size: int
    horizon: int
    """Steps after which an episode is truncated."""

    def make_envs(self, seed: int, envs_per_task: int) -> TaskVectorEnv:
        """Environments for training: a random goal at each episode."""
        ...

    def make_evaluation_envs(self, seed: int, episodes: int, protocol: str) -> TaskVectorEnv:
        """Environments for evaluation: terminate on success, goals by `protocol` (see `training.evaluation`)."""
        ...


class Evaluation(Protocol):
    """What an evaluation found, of which every per-task value is a mean over its episodes or samples."""

    headline: str
    """The value that matters most, a share in [0, 1] and a key of `per_task`: success, accuracy, ..."""

    @property
    def per_task(self) -> dict[str, FloatArray]:
        """name -> (T,)"""
        ...

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Everything in plain types: `episodes`, `mean_<name>`, and under `tasks` each task's `<name>` and more."""
        ...


class Trainer(Protocol):
    """A learner with its data, and how far it is."""

    step: int
    """What `steps` counts of each task: environment steps, or samples."""
    updates: int
    seconds: dict[str, float]
    """Where the time went."""
    unit: str
    """What one step is, in the plural: env_steps, samples, ..."""
    headline: str
    """The value of `report` that a progress bar shows."""

    def advance(self) -> Metrics | None:
        """Take the smallest step there is; the metrics of the last update in it, on the learner's device."""
        ...

    def report(self) -> dict[str, FloatArray]:
        """name -> (T,): statistics of the training data since the last report, NaN where there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All but `data_state`, in types that a checkpoint can hold: what an exact continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def data_state(self) -> dict[str, Any]:
        """The large part, such as a replay, of which only the newest is kept; {} where there is none."""
        ...

    def load_data_state(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Learner(Protocol):
    """A network with a primary and an auxiliary head, trained inside another learner's problem."""

    def train_batch(self, images: Tensor, labels: Tensor, auxiliary: Tensor | None, weight: Tensor | None) -> Metrics:
        """One step on images (B, C, H, W), labels (B,) and auxiliary labels (B,), or (B, K) shares of each.

        weight (B,): factors of each image's auxiliary loss.
        """
        ...

    def evaluate(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean primary loss, ()."""
        ...

    def snapshot(self) -> Any:
        """A copy of all that `train_batch` changes."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to a copy, bit for bit."""
        ...
