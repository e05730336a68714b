"""The tasks to which a batch belongs: all of them, or some of many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class TaskSubset:
    """All T tasks, in the suite's order. `write` copies; the other methods leave everything as it is."""

    def gather(self, whole: Tensor) -> Tensor:
        """The entries of the batch's tasks in a tensor of all tasks: (T, ..) -> (S, ..)."""
        return whole

    def scatter(self, part: Tensor, whole: Tensor) -> Tensor:
        """The values (S, ..) of the batch's tasks in the shape of `whole` (T, ..), with zeros for the other tasks."""
        return part

    def write(self, whole: Tensor, part: Tensor) -> None:
        """Put the values (S, ..) of the batch's tasks into `whole` (T, ..), in place. The other tasks keep theirs."""
        whole.copy_(part)

    def present(self, everyone: Tensor) -> Tensor:
        """(T,) bool: the tasks of the batch. `everyone` is the mask of all tasks."""
        return everyone

    def to(self, device: torch.device) -> TaskSubset:
        return self

    def summary(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """The metrics to log: one value per task, or means where the tasks change from batch to batch."""
        return metrics


ALL_TASKS = TaskSubset()


@dataclass(frozen=True, eq=False)
class SomeTasks(TaskSubset):
    """S of the T tasks. Where tasks are goals, a batch may also hold goals that training does not know."""

    task: Tensor
    """(S,) int64: the index of each task in the suite; for an unknown goal, that of the nearest known one."""
    code: Tensor
    """(S, C): the code that networks see for each task, in place of the one that they store."""

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
        return {name: value.mean() for name, value in metrics.items()}
