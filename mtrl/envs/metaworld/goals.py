"""Draws the goal of each copy's next episode from the copy's own random stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl.core.errors import expected


class GoalDraws:
    """Draws goals for N copies of each of T tasks. Methods refer to copy n of task t by the index ``t · N + n``.

    Args:
        counts: the number of goals of each task.
        copies: N.
        in_turn: whether copy n has only the goals n, n + N, ... and plays all of them, in a new random order each time,
            before it repeats one. By default, each draw is any of the task's goals.
        here: the indices n of the copies to draw for; by default, all N. With the same seed, each copy draws
            the goals that it would draw without `here`. The methods' indices then count only these copies.

    Raises:
        UserError: with `in_turn`, a task has fewer goals than copies.
    """

    def __init__(self, counts: Sequence[int], copies: int, in_turn: bool = False, here: range | None = None) -> None:
        here = range(copies) if here is None else here
        self._streams = [t * copies + n for t in range(len(counts)) for n in here]
        self._all = len(counts) * copies
        self._counts = [count for count in counts for _ in here]
        shares = [np.arange(n, count, copies) for count in counts for n in here]
        if in_turn and copies > min(counts):
            what = f"at most the number of goals ({min(counts)}) where copies do not share goals"
            raise expected("The number of copies of a task", what, copies)
        self._shares = shares if in_turn else None
        self._orders = [share.copy() for share in shares]
        self._places = [-1] * len(shares)
        self._rngs = [np.random.default_rng() for _ in shares]

    def __len__(self) -> int:
        return len(self._rngs)

    def seed(self, seeds: int | Sequence[int | None]) -> None:
        """Restart all streams from one seed, or each from its own in a list. None leaves a stream as it is."""
        if isinstance(seeds, int | np.integer):
            streams = np.random.SeedSequence(int(seeds)).spawn(self._all)
            sources: Sequence[Any] = [streams[number] for number in self._streams]
        else:
            sources = seeds
        for copy, source in enumerate(sources):
            if source is not None:
                self._rngs[copy] = np.random.default_rng(source)
                self._places[copy] = -1
                if self._shares is not None:
                    self._orders[copy] = self._shares[copy].copy()

    def draw(self, copy: int) -> int:
        """Draw the copy's next goal, as an index into the task's goals."""
        if self._shares is None:
            return int(self._rngs[copy].integers(self._counts[copy]))
        order = self._orders[copy]
        self._places[copy] = (self._places[copy] + 1) % len(order)
        if self._places[copy] == 0:
            self._rngs[copy].shuffle(order)
        return int(order[self._places[copy]])

    def state_dict(self) -> dict[str, Any]:
        return {
            "rngs": [rng.bit_generator.state for rng in self._rngs],
            "orders": [order.tolist() for order in self._orders] if self._shares is not None else [],
            "places": list(self._places),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        if self._shares is not None:
            self._orders = [np.array(order, np.int64) for order in state["orders"]]
        self._places = list(state["places"])
