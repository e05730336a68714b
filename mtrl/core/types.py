"""The few types that every part of the toolkit shares.

Letters are fixed project-wide: T tasks, B batch per task, N environments per task,
O and A observation and action size, E ensemble members, P parameters.
A batch is task-major: the first axis is always the task, in the suite's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    truncated: Tensor | None = None
    """(T, N) bool: where an episode was cut off. Only transitions that come from environments have it."""
    discount: Tensor | None = None
    """(T, B): the factor of the successor's value in a target; the learner's γ if not given."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Transitions:
        """Apply `change` to every field up to `terminated`. The result is a batch of all tasks."""
        observation, action, reward = change(self.observation), change(self.action), change(self.reward)
        return Transitions(observation, action, reward, change(self.next_observation), change(self.terminated))


class TaskLoss(Protocol):
    """The one definition of a learner's losses, from which every gradient is taken.

    `shared` maps a name to a tensor of its own shape, or, where per-task gradients are wanted, to a
    view with a task axis of stride 0 in front: (T, *shape). `own` and `own_buffers` map to (T, *shape).
    Returns the losses (T,), or a list of T scalars where each has a graph of its own, and auxiliary tensors (metrics
    and new buffers), which carry no gradient.
    """

    def __call__(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any
    ) -> tuple[Tensor | Sequence[Tensor], Metrics]: ...


class TaskParameters(Protocol):
    """What the optimiser needs of a network: its trained tensors, split into shared and owned ones."""

    num_tasks: int
    ensemble: int | None
    shared_input: bool
    """Whether all tasks see the same inputs. Their task axis is then 1, and shared layers are computed only once."""
    shared: Any
    """name -> parameter (*shape)"""
    own: Any
    """name -> parameter (T, *shape), or (*shape) where it is in `owner`"""

    @property
    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        """(shared, own, own_buffers), as a `TaskLoss` takes them."""
        ...

    @property
    def owner(self) -> Mapping[str, int]:
        """name -> the one task that owns a parameter without a task axis"""
        ...

    def per_task_leaves(self) -> dict[str, Tensor]:
        """The shared tensors with a task axis of stride 0 in front, as leaves that need a gradient where trained."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def at(self, subset: TaskSubset) -> TaskParameters:
        """The network for the tasks of a batch, whose `own` still holds all tasks; the network itself for all tasks."""
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
    """{name: (T, N)}: extra measurements of the state just reached. Evaluation uses those at the end of the episode."""


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
