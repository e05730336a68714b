"""Per-task replay: one ring of transitions for each task, on the learner's device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl.core.types import Transitions


def draw_below(limit: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Uniform int64 integers of this shape in [0, limit). `limit` is positive and is broadcast to the shape.

    They are 63 random bits modulo the limit n, so the probabilities of two integers differ by a factor of about
    1 + n / 2⁶³ at most. Scaled float32 fractions would draw some of a million rows noticeably more often than others.
    """
    bits = torch.randint(2**63 - 1, shape, device=limit.device, generator=generator)
    return bits.remainder_(limit)


def check_saved(rows: Tensor, own: Tensor) -> None:
    """Raise ValueError unless saved rows (rings, steps, row) fit into a replay's `own`, which may have more steps."""
    if rows.shape[0] != own.shape[0] or rows.shape[2] != own.shape[2] or rows.shape[1] > own.shape[1]:
        raise ValueError(
            f"A saved replay should fit (rings, at most capacity, row) = {tuple(own.shape)}. Found {tuple(rows.shape)}."
        )


class ReplayBuffer:
    """T rings of `capacity` transitions in one preallocated tensor.

    A transition is one row [observation, action, next observation, reward, terminated], so a batch is a single gather
    of T·B rows. Memory: 4 (2 O + A + 2) bytes a transition; Meta-World's O = 39 and A = 4 take 336 MB per million. All
    tasks advance together, so one position serves all rings.
    """

    _scalars: ClassVar[int] = 2
    """The number of scalars at the end of a row: reward and terminated."""
    block_bytes: ClassVar[int] = 1 << 24
    """Bytes of each block of rows that `state_dict` returns. A checkpoint stores a block as one file."""

    def __init__(
        self,
        num_tasks: int,
        capacity: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """capacity: the transitions kept per task; later ones overwrite the oldest. The sizes are O and A."""
        self.num_tasks, self.capacity = num_tasks, capacity
        self._sizes = [observation_size, action_size, observation_size, *[1] * self._scalars]
        self._rows = torch.zeros(num_tasks, capacity, sum(self._sizes), device=device)
        self._offsets = torch.arange(num_tasks, device=device) * capacity
        self._position = 0
        self._size = 0
        self._total = 0
        self._limit = torch.zeros((), dtype=torch.int64, device=device)

    def __len__(self) -> int:
        """Transitions stored per task; after `fill`, those of the task with the most."""
        return self._size

    @property
    def bytes(self) -> int:
        """The memory of all rows, filled or not."""
        return self._rows.nbytes

    def add(self, transitions: Transitions) -> None:
        """Store N transitions of every task: each field (T, N, ..). Raises ValueError if N exceeds the capacity."""
        new = torch.cat([f.to(self._rows) for f in self._fields(transitions)], -1)
        count = new.shape[1]
        if count > self.capacity:
            raise ValueError(f"A step should add at most {self.capacity} transitions a task. Found {count}.")
        first = min(count, self.capacity - self._position)
        self._rows[:, self._position : self._position + first] = new[:, :first]
        self._rows[:, : count - first] = new[:, first:]
        self._position = (self._position + count) % self.capacity
        self._total += count
        self._resize(min(self._size + count, self.capacity))

    def fill(self, rings: Sequence[Transitions]) -> None:
        """Fill the rings of an empty buffer, each with its own transitions, from which `sample` then draws.

        rings: one batch for each task, with fields (1, M, ..), where M may differ and is at most the capacity.
        """
        for ring, transitions in zip(self._rows, rings, strict=True):
            rows = torch.cat([f.to(ring) for f in self._fields(transitions)], -1)[0]
            ring[: len(rows)] = rows
        counts = [transitions.reward.shape[1] for transitions in rings]
        self._size = self._total = max(counts)
        self._position = self._size % self.capacity
        self._limit = torch.tensor(counts, device=self._rows.device).unsqueeze(-1)

    def ordered(self) -> Transitions:
        """All stored transitions, (T, M, ..), the oldest first. After `fill`, shorter rings end in zeros."""
        places = (torch.arange(self._size, device=self._rows.device) + self._position - self._size) % self.capacity
        return self._transitions(self._gather(places.expand(self.num_tasks, -1)))

    def _fields(self, transitions: Transitions) -> list[Tensor]:
        """The parts of a row, each (T, N, size)."""
        observation, action, reward, next_observation, terminated = transitions[:5]
        return [observation, action, next_observation, reward.unsqueeze(-1), terminated.unsqueeze(-1)]

    def _resize(self, size: int) -> None:
        self._size = size
        self._limit.fill_(size)  # `_draw` reads a tensor, since a captured CUDA graph would freeze a Python number

    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        """Random places (T, B) in the rings."""
        if not self._size:
            raise ValueError("Sampling needs at least one stored transition. Found an empty buffer.")
        return draw_below(self._limit, (self.num_tasks, batch_size), generator)

    def _gather(self, place: Tensor) -> list[Tensor]:
        """The parts of the rows at places (T, ..) of each task's ring."""
        index = place + self._offsets.view(-1, *[1] * (place.ndim - 1))
        rows = self._rows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, place.shape)
        return list(rows.split(self._sizes, -1))

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Transitions:
        """Draw (T, B) transitions uniformly, with replacement, from the rows written so far.

        Raises:
            ValueError: the buffer is empty.
        """
        return self._transitions(self._gather(self._draw(batch_size, generator)))

    @staticmethod
    def _transitions(parts: Sequence[Tensor]) -> Transitions:
        observation, action, next_observation, reward, terminated, *_ = parts
        return Transitions(observation, action, reward.squeeze(-1), next_observation, terminated.squeeze(-1))

    def state_dict(self) -> dict[str, Any]:
        """The written rows, in blocks of steps. The blocks are views of the buffer: save them before you add more."""
        return {"blocks": dict(self._blocks()), "position": self._position, "total": self._total}

    def _blocks(self) -> Iterator[tuple[str, Tensor]]:
        """Yield blocks (T, steps, row) with their names.

        A name holds the position at which the block begins, and the number of transitions per task that had been added
        when the block was last written to. Blocks of one run that have the same name are therefore equal.
        """
        length = max(1, self.block_bytes // self._rows[:, :1].nbytes)
        newest = (self._position - 1) % self.capacity
        for first in range(0, self._size, length):
            end = min(first + length, self._size)
            age = 0 if first <= newest < end else (newest - end + 1) % self.capacity
            yield f"{first}_{self._total - age}", self._rows[:, first:end]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """state: from `state_dict`, or {rows, position} from the first checkpoints of format 1.

        Raises:
            ValueError: the saved rows have another shape, or are more than the capacity.
        """
        blocks: list[Tensor] = [state["rows"]] if "rows" in state else list(state["blocks"].values())
        shapes = {(block.shape[0], block.shape[2]) for block in blocks}
        size = sum(block.shape[1] for block in blocks)
        if not shapes <= {(self.num_tasks, self._rows.shape[2])} or size > self.capacity:
            raise ValueError(
                f"A saved replay should fit (T, at most capacity, row) = {tuple(self._rows.shape)}. "
                f"Found {size} steps, and (T, row) of {shapes}."
            )
        self._position, self._total = state["position"], state.get("total", size)
        for part, block in zip(self._rows[:, :size].split([b.shape[1] for b in blocks], 1), blocks, strict=True):
            part.copy_(block)
        if size < self.capacity and self._position != size:  # the saved ring was full: put its oldest rows first
            self._rows[:, :size] = self._rows[:, :size].roll(-self._position, 1)
            self._position = size
        self._resize(size)
