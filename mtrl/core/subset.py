"""The tasks to which a batch belongs: all T tasks, or S of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class TaskSubset:
    """The S tasks of a batch, out of the suite's T. This base class stands for all T tasks, in the suite's order.

    The shapes below hold for every subclass. Here S = T, so only `write` copies anything.
    """

    def gather(self, whole: Tensor) -> Tensor:
        """Select the entries of the batch's tasks from a tensor of all tasks: (T, ..) -> (S, ..)."""
        return whole

    def scatter(self, part: Tensor, whole: Tensor) -> Tensor:
        """Place the values (S, ..) of the batch's tasks in the shape of `whole` (T, ..), with zeros for other tasks.

        Values of the same task are added.
        """
        return part

    def write(self, whole: Tensor, part: Tensor) -> None:
        """Put the values (S, ..) of the batch's tasks into `whole` (T, ..), in place. The other tasks keep theirs."""
        whole.copy_(part)

    def present(self, everyone: Tensor) -> Tensor:
        """(T,) bool: which tasks are in the batch. everyone: a mask (T,) of True."""
        return everyone

    def to(self, device: torch.device) -> TaskSubset:
        return self

    def summary(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """The metrics to log: as given; for a batch of some tasks, their means over tasks (or over pairs of tasks)."""
        return metrics


ALL_TASKS = TaskSubset()


@dataclass(frozen=True, eq=False)
class SomeTasks(TaskSubset):
    """S of the T tasks. Where tasks are goals, a batch may also hold goals that are not among the T."""

    task: Tensor
    """(S,) int64: the index of each task in the suite; for another goal, that of the nearest goal of the suite."""
    code: Tensor
    """(S, C): the task codes that networks take as input, in place of those that they store."""

    def gather(self, whole: Tensor) -> Tensor:
        return whole.index_select(0, self.task)

    def scatter(self, part: Tensor, whole: Tensor) -> Tensor:
        return torch.zeros_like(whole, dtype=part.dtype).index_add_(0, self.task, part)

    def write(self, whole: Tensor, part: Tensor) -> None:
        whole.index_copy_(0, self.task, part.to(whole))

    def present(self, everyone: Tensor) -> Tensor:
        return torch.zeros_like(everyone).index_fill_(0, self.task, True)

    def to(self, device: torch.device) -> SomeTasks:
        return SomeTasks(self.task.to(device), self.code.to(device))

    def summary(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: _mean(value) for name, value in metrics.items()}


def _mean(value: Tensor) -> Tensor:
    """The mean over tasks (S,), or of a matrix (S, S) over its pairs of different tasks."""
    if value.dim() < 2 or len(value) == 1:
        return value.mean()
    return (value.sum() - value.diagonal().sum()) / (value.numel() - len(value))
