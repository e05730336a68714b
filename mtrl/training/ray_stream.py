"""Transitions that processes of a Ray cluster collect while the learner learns from earlier ones.

Each process steps a part of the environments. It has at most one call under way, which takes a fixed number of steps
with the policy that was the newest when the call began. The steps count when the learner takes them. With them comes
the state of the environments after the last step, from which the part's next call continues. If a process dies, only
its current call is lost: another process starts from the end of the part's last call that the learner took. So no step
is left out or counted twice, and a checkpoint contains nothing about calls under way.

A policy's staleness is the number of updates between sending it and taking its steps. It has an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mtrl.core.errors import UserError
from mtrl.training.collecting import PartState
from mtrl.training.ray_collector import Block, RayWorkers, packed, unpacked

_MOST_LOST = 10
"""The largest number of processes that may die in a row, with no successful call in between."""


class Arrival(NamedTuple):
    """The steps of one call."""

    copies: range
    """The copies of each task that took the steps."""
    block: Block
    staleness: int
    """Updates since the policy of these steps was sent."""


class _Call(NamedTuple):
    part: int
    version: int


def must_wait(ages: Sequence[int], each: int, most: int) -> bool:
    """Whether the learner must take the steps of the oldest policy next, so that no policy becomes too old.

    In each turn, the learner takes the steps of one policy. Suppose that it takes any other one now, and from the next
    turn on always the oldest. Then the i-th oldest (i = 0, 1, ...) is taken i + 1 turns from now at the latest. If one
    of them would be too old by then, the oldest must be next. Policies that are sent later are newer than all of these.
    Therefore, if `most` is at least `each` times the number of processes, no policy ever becomes older than `most`.

    Args:
        ages: updates since each policy under way was sent.
        each: the largest number of updates in one turn.
        most: the largest age allowed.
    """
    return any(age + (i + 1) * each > most for i, age in enumerate(sorted(ages, reverse=True)))


class RayStream(RayWorkers):
    """The processes and their calls under way.

    Args:
        steps: R, the steps of each copy in one call.
        each: the largest number of updates for the steps of one call.
        most: the largest staleness allowed, at least `each` times the number of processes.
        rest: as in `RayWorkers`.
    """

    def __init__(self, steps: int, each: int, most: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._steps, self._each, self._most = steps, each, most
        self._calls: dict[Any, _Call] = {}
        self._policy: tuple[int, bytes, Any] = (-1, b"", self._ray.put(b""))
        self._lost_in_a_row = 0

    def take(self, version: int) -> Arrival:
        """Let all processes without a call begin one, wait for the steps of one call, and return them.

        version: the number of updates so far, which identifies the newest policy; negative for random actions.

        Raises:
            UserError: processes keep dying.
        """
        while True:
            self.begin(version)
            ages = {call: max(version, 0) - max(begun.version, 0) for call, begun in self._calls.items()}
            oldest = max(ages, key=lambda call: ages[call])
            (call,), _ = self._ray.wait([oldest] if must_wait([*ages.values()], self._each, self._most) else [*ages])
            part = self._calls.pop(call).part
            if (answer := self._answer(call, part)) is not None:
                break
            self._lost_in_a_row += 1
            if self._lost_in_a_row > _MOST_LOST:
                found = self._lost_in_a_row
                raise UserError(f"Collectors should not die. Found {found} that died in a row; see Ray's logs.")
        block, self._states[part] = answer
        self._lost_in_a_row = 0
        self._count(steps=block.nbytes, states=len(answer[1]))
        return Arrival(self._config.parts[part], block, ages[call])

    def begin(self, version: int) -> None:
        """Let all processes without a call begin one with the newest policy. version: as in `take`."""
        busy = {call.part for call in self._calls.values()}
        for part in (part for part in range(self._config.workers) if part not in busy):
            if self._policy[0] != version:
                policy = packed(self._agent.exploring_state()) if version >= 0 else b""
                self._policy = version, policy, self._ray.put(policy)
            shape = (self._shape[0], len(self._config.parts[part]))
            noise = torch.stack([self._agent.noise(shape) for _ in range(self._steps)], 1).cpu().numpy()
            self._calls[self._call(part, self._policy[2], noise)] = _Call(part, version)
            self._count(policy=len(self._policy[1]), noise=noise.nbytes)

    def state_dict(self) -> dict[str, PartState]:
        """Number of a part -> the state of its environments after its last steps that were taken, if there are any."""
        return {str(part): unpacked(state) for part, state in enumerate(self._states) if state is not None}

    def load_state_dict(self, states: Mapping[str, PartState]) -> None:
        """Continue from saved states. Processes with a call under way are replaced."""
        for call in self._calls.values():
            self._ray.kill(self._workers[call.part])
            self._workers[call.part] = self._start(call.part)
        self._calls.clear()
        self._states = [packed(states[str(p)]) if str(p) in states else None for p in range(self._config.workers)]
        self._behind = set(range(self._config.workers))
