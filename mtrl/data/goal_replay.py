"""Replay for tasks that are goals: one ring for each goal, since each step and each batch sees only some goals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtrl.core.subset import ALL_TASKS, SomeTasks, TaskSubset
from mtrl.core.types import Transitions
from mtrl.data.replay import check_saved, draw_below

Relabel = Callable[[Transitions, Tensor], Transitions]
"""(batch of T goals, reached (T, O)) -> the batch as if its t-th goal were the one that state reached[t] achieves."""


class GoalReplay:
    """G rings of `capacity` transitions in one preallocated tensor (G, capacity, row).

    A transition is one row [observation, action, next observation, reward, terminated] of float32. Memory:
    4 (2 O + A + 2) G · capacity bytes; 200 goals × 5,000 of pushing's O = 22 and A = 4 take 200 MB. The goal itself is
    kept once, in `goals` (G, C).
    """

    def __init__(
        self,
        goals: Tensor,
        capacity: int,
        observation_size: int,
        action_size: int,
        goals_per_batch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """capacity: transitions kept per goal; goals_per_batch: T."""
        self.capacity, self.goals_per_batch = capacity, goals_per_batch
        self._goals = goals.to(device)
        self._sizes = [observation_size, action_size, observation_size, 1, 1]
        self._rows = torch.zeros(len(goals), capacity, sum(self._sizes), device=device)
        self._written = torch.zeros(len(goals), dtype=torch.int64, device=device)
        self._total = 0

    def __len__(self) -> int:
        """Transitions added in all, including overwritten ones."""
        return self._total

    @property
    def bytes(self) -> int:
        return self._rows.nbytes

    @property
    def sizes(self) -> Tensor:
        """(G,): transitions stored for each goal."""
        return self._written.clamp(max=self.capacity)

    def add(self, transitions: Transitions) -> None:
        """Store N transitions of each of the T distinct goals in `transitions.subset`; fields (T, N, ..)."""
        observation, action, reward, next_observation, terminated, goals = transitions[:6]
        assert isinstance(goals, SomeTasks)
        columns = [observation, action, next_observation, reward.unsqueeze(-1), terminated.unsqueeze(-1)]
        new = torch.cat([c.to(self._rows) for c in columns], -1)
        count, task = new.shape[1], goals.task.to(self._rows.device)
        if count > self.capacity:
            raise ValueError(f"A step should add at most {self.capacity} transitions a goal. Found {count}.")
        place = (self._written[task].unsqueeze(1) + torch.arange(count, device=task.device)) % self.capacity
        self._rows.index_put_((task.unsqueeze(1), place), new)
        self._written.index_add_(0, task, torch.full_like(task, count))
        self._total += count * len(task)

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, goals: TaskSubset = ALL_TASKS
    ) -> Transitions:
        """Draw (T, B) transitions of `goals`; by default, of T random goals that have transitions."""
        chosen = goals if isinstance(goals, SomeTasks) else self._draw_goals(generator)
        fields = self._draw(chosen.task, batch_size, generator).split(self._sizes, -1)
        observation, action, next_observation, reward, terminated = fields
        scalars = (reward.squeeze(-1), next_observation, terminated.squeeze(-1))
        return Transitions(observation, action, *scalars, chosen)

    def _draw_goals(self, generator: torch.Generator | None) -> SomeTasks:
        """Draw the goals with the largest random numbers, since `multinomial` would wait for the device."""
        draw = torch.rand(len(self._goals), device=self._rows.device, generator=generator)
        task = draw.masked_fill_(self._written == 0, -1).topk(self.goals_per_batch).indices
        return SomeTasks(task, self._goals[task])

    def _draw(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw (T, count, row), uniformly and with replacement, from the rows that each goal has."""
        shape = (len(task), count)
        index = draw_below(self.sizes[task].unsqueeze(1), shape, generator) + self.capacity * task.unsqueeze(1)
        return self._rows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, shape)

    def state_dict(self) -> dict[str, Any]:
        """The state, with only as many columns as the fullest ring has filled."""
        used = int(self.sizes.max())
        return {"rows": self._rows[:, :used].contiguous(), "written": self._written.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows: Tensor = state["rows"]
        check_saved(rows, self._rows)
        self._rows[:, : rows.shape[1]] = rows
        self._written.copy_(state["written"])
        self._total = int(self._written.sum())


class HindsightReplay(GoalReplay):
    """Replaces half of a batch's goals, on average, by goals that episodes have achieved.

    Andrychowicz et al. 2017, strategy "random". Here the new goal comes from a state stored for the old goal, and
    replaces the old one in the whole batch, so that goal-conditioned networks see each goal once.
    """

    share = 0.5
    """Probability that a goal is replaced."""

    def __init__(self, *arguments: Any, relabel: Relabel, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._relabel = relabel

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, goals: TaskSubset = ALL_TASKS
    ) -> Transitions:
        batch = super().sample(batch_size, generator, goals)
        assert isinstance(batch.subset, SomeTasks)
        task, code = batch.subset.task, batch.subset.code
        reached = self._draw(task, 1, generator).split(self._sizes, -1)[2].squeeze(1)
        again = self._relabel(batch, reached)
        assert isinstance(again.subset, SomeTasks)
        chosen = torch.rand(len(task), 1, device=task.device, generator=generator) < self.share
        subset = SomeTasks(task, torch.where(chosen, again.subset.code, code))
        return batch._replace(reward=torch.where(chosen, again.reward, batch.reward), subset=subset)
