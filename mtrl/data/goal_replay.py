"""Replay for tasks that are goals. Each goal has its own ring buffer, since a step or a batch has only some goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl.core.subset import ALL_TASKS, SomeTasks, TaskSubset
from mtrl.core.types import Transitions
from mtrl.data.replay import check_saved, draw_below

Relabel = Callable[[Transitions, Tensor], Transitions]
"""(batch of T goals, reached (T, O)) -> the batch with its t-th goal replaced by the one that reached[t] achieves."""


class GoalReplay:
    """G ring buffers of `capacity` transitions in one preallocated tensor (G, capacity, 2 O + A + 2).

    A transition is one row [observation, action, next observation, reward, terminated] of float32. The buffers take
    4 (2 O + A + 2) G · capacity bytes: 200 MB for 200 goals with 5,000 transitions of pushing (O = 22, A = 4). The
    goals' codes are stored once.
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
        """goals: the codes (G, C) of all goals; capacity: transitions kept per goal; goals_per_batch: T."""
        self.capacity, self.goals_per_batch = capacity, goals_per_batch
        self._goals = goals.to(device)
        self._sizes = [observation_size, action_size, observation_size, 1, 1]
        self._rows = torch.zeros(len(goals), capacity, sum(self._sizes), device=device)
        self._written = torch.zeros(len(goals), dtype=torch.int64, device=device)
        self._total = 0

    def __len__(self) -> int:
        """The number of transitions added so far, including overwritten ones."""
        return self._total

    @property
    def bytes(self) -> int:
        """The memory of the ring buffers, in bytes."""
        return self._rows.nbytes

    @property
    def sizes(self) -> Tensor:
        """(G,): the number of transitions stored for each goal."""
        return self._written.clamp(max=self.capacity)

    def add(self, transitions: Transitions) -> None:
        """Store N transitions of each of the T distinct goals in `transitions.subset`: fields (T, N, ..).

        Raises:
            ValueError: N is larger than the capacity.
        """
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
        """Draw (T, B) transitions, with replacement, of `goals`; by default, of T random goals that have transitions.

        Every goal in `goals`, or by default at least T goals, must have transitions.
        """
        chosen = goals if isinstance(goals, SomeTasks) else self._draw_goals(generator)
        fields = self._draw(chosen.task, batch_size, generator).split(self._sizes, -1)
        observation, action, next_observation, reward, terminated = fields
        scalars = (reward.squeeze(-1), next_observation, terminated.squeeze(-1))
        return Transitions(observation, action, *scalars, chosen)

    def _draw_goals(self, generator: torch.Generator | None) -> SomeTasks:
        """Draw T goals, as those with the largest random numbers, since `multinomial` would wait for the device."""
        draw = torch.rand(len(self._goals), device=self._rows.device, generator=generator)
        task = draw.masked_fill_(self._written == 0, -1).topk(self.goals_per_batch).indices
        return SomeTasks(task, self._goals[task])

    def _draw(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw `count` rows of each goal, uniformly and with replacement: (T, count, 2 O + A + 2)."""
        shape = (len(task), count)
        index = draw_below(self.sizes[task].unsqueeze(1), shape, generator) + self.capacity * task.unsqueeze(1)
        return self._rows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, shape)

    def state_dict(self) -> dict[str, Any]:
        """The state, with as many rows of each goal as the fullest ring buffer has."""
        used = int(self.sizes.max())
        return {"rows": self._rows[:, :used].contiguous(), "written": self._written.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows: Tensor = state["rows"]
        written: Tensor = state["written"]
        check_saved(rows, self._rows)
        self._total, used = int(written.sum()), rows.shape[1]
        if used < self.capacity and (written > used).any():  # rings were full: put their oldest rows first
            first = torch.where(written > used, written % used, 0).unsqueeze(1)
            places = (first + torch.arange(used, device=rows.device)) % used
            rows, written = rows.take_along_dim(places.unsqueeze(-1), 1), written.clamp(max=used)
        self._rows[:, :used] = rows
        self._written.copy_(written)


@dataclass(frozen=True, eq=False)
class _InHindsight(SomeTasks):
    """Goals of a batch, some of which were replaced in hindsight. Another batch of the same goals can be drawn."""

    reached: Tensor
    """(T, O): the observations in which the new goals were achieved."""
    replaced: Tensor
    """(T, 1) bool: which goals were replaced."""


class HindsightReplay(GoalReplay):
    """Hindsight experience replay: replaces at most half of a batch's goals, on average, with achieved goals.

    This is the strategy "random" of Andrychowicz et al. 2017 with two changes. The new goal is achieved in a transition
    stored for the old goal. It replaces the old goal in all of its transitions in the batch, so that goal-conditioned
    networks process each goal once.
    """

    share = 0.5
    """The probability that a goal is relabelled."""

    def __init__(self, *arguments: Any, relabel: Relabel, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._relabel = relabel

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, goals: TaskSubset = ALL_TASKS
    ) -> Transitions:
        """Draw as `GoalReplay.sample` does, and replace goals only where `goals` are not given.

        If `goals` are those of an earlier batch, the new batch has exactly these goals and the rewards for them.
        """
        batch = super().sample(batch_size, generator, goals)
        assert isinstance(batch.subset, SomeTasks)
        task = batch.subset.task
        if isinstance(goals, _InHindsight):
            reached, replaced = goals.reached, goals.replaced
            batch = batch._replace(subset=SomeTasks(task, self._goals[task]))
        elif isinstance(goals, SomeTasks):
            return batch
        else:
            reached = self._draw(task, 1, generator).split(self._sizes, -1)[2].squeeze(1)
            replaced = torch.rand(len(task), 1, device=task.device, generator=generator) < self.share
        again = self._relabel(batch, reached)
        assert isinstance(again.subset, SomeTasks)
        code = torch.where(replaced, again.subset.code, self._goals[task])
        reward = torch.where(replaced, again.reward, batch.reward)
        return batch._replace(reward=reward, subset=_InHindsight(task, code, reached, replaced))
