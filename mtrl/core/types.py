"""The types that all parts of the toolkit share.

Unless stated otherwise, the letters in shapes are: T tasks, B batch per task, N environments per task, O and A
observation and action size, E ensemble members, P parameters. A batch is task-major: its first axis is the task, in the
suite's order.
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
    """(T, B, O): the true next observation, never the first one of the next episode."""
    terminated: Tensor
    """(T, B) float: 1 where the episode terminated, otherwise 0. A truncation is not a termination."""
    subset: TaskSubset = ALL_TASKS
    """The tasks of the batch: by default all tasks of the suite, in its order."""
    truncated: Tensor | None = None
    """(T, B): where an episode was truncated, or, in a batch of a rollout, where it ended. None if not known."""
    discount: Tensor | None = None
    """(T, B): the factor of the next observation's value in a target. If None, the learner's γ."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Transitions:
        """Apply `change` to every field up to `terminated`. The result has the defaults of the other fields."""
        observation, action, reward = change(self.observation), change(self.action), change(self.reward)
        return Transitions(observation, action, reward, change(self.next_observation), change(self.terminated))


class TaskLoss(Protocol):
    """A learner's losses as a function, from which all gradients are taken.

    `shared` maps a name to a tensor of the parameter's shape or, where one backward pass gives each task's gradient, to
    a view with a task axis of stride 0 in front: (T, *shape). `own` and `own_buffers` map names to (T, *shape). Returns
    the losses (T,), or a list of T scalars where each has a graph of its own, and auxiliary tensors (metrics and new
    buffers), which carry no gradient.
    """

    def __call__(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any
    ) -> tuple[Tensor | Sequence[Tensor], Metrics]: ...


class TaskParameters(Protocol):
    """What the optimiser needs from a network: its trained tensors, divided into shared and task-specific ones."""

    num_tasks: int
    ensemble: int | None
    shared_input: bool
    """Whether all tasks have the same inputs. Their task axis then has size 1, and shared layers are computed once."""
    shared: Any
    """name -> parameter `(*shape)`."""
    own: Any
    """name -> parameter `(T, *shape)`, or `(*shape)` if the name is in `owner`."""

    @property
    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        """(shared, own, own_buffers), as a `TaskLoss` takes them."""
        ...

    @property
    def owner(self) -> Mapping[str, int]:
        """name -> the index of the one task that owns a parameter without a task axis."""
        ...

    def per_task_leaves(self) -> dict[str, Tensor]:
        """The shared tensors with a task axis of stride 0 in front, as leaves that require a gradient if trained."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def at(self, subset: TaskSubset) -> TaskParameters:
        """This network for only the S tasks of a batch; for all tasks, this network itself.

        The result's `own` still holds the parameters of all T tasks.
        """
        ...


@dataclass(frozen=True)
class StepResult:
    """The result of one step of all environments. The next step may overwrite the arrays: copy them to keep them."""

    observation: FloatArray
    """(T, N, O): the observation to act on next. Where an episode has ended, the first one of the new episode."""
    reward: FloatArray
    """(T, N)"""
    terminated: BoolArray
    """(T, N)"""
    truncated: BoolArray
    """(T, N)"""
    next_observation: FloatArray
    """(T, N, O): the true next observation. It differs from `observation` only where an episode has ended."""
    success: BoolArray
    """(T, N): whether the task is solved in the state that was reached."""
    measures: Mapping[str, FloatArray] = field(default_factory=dict)
    """{name: (T, N)}: further measurements of that state. Evaluation uses those of an episode's last step."""


class TaskVectorEnv(Protocol):
    """All tasks of a suite, N copies each, stepped at once. An episode that ends is reset in the same step."""

    num_tasks: int
    envs_per_task: int

    def reset(self, seed: int | None = None) -> FloatArray:
        """Restart all episodes and return the first observations (T, N, O).

        `seed` decides what is drawn from then on, such as starts and goals. By default it is the last seed, so that the
        same episodes follow.
        """
        ...

    def step(self, action: FloatArray) -> StepResult:
        """Apply actions (T, N, A) in [-1, 1]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state from which stepping continues exactly: tensors, numbers, strings and containers of them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        """Restore a saved state and return its observations (T, N, O).

        Raises:
            UserError: it is the state of another engine, of other tasks, or of another number of copies.
        """
        ...

    def close(self) -> None: ...


class Learner(Protocol):
    """A network with a primary and an auxiliary head, whose training is the inner problem of another learner."""

    def train_batch(self, images: Tensor, labels: Tensor, auxiliary: Tensor | None, weight: Tensor | None) -> Metrics:
        """Train for one step on images (B, C, H, W) and labels (B,).

        auxiliary: auxiliary labels (B,), or probabilities of the K auxiliary classes (B, K). weight: factors (B,) of
        the images' auxiliary losses.
        """
        ...

    def evaluate(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean primary loss, ()."""
        ...

    def snapshot(self) -> Any:
        """A copy of everything that `train_batch` changes."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Restore a copy made by `snapshot`, bit for bit."""
        ...
