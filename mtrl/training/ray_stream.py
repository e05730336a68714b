"""Transitions that processes of a Ray cluster collect while the learner learns from those before.

Each process has a part of the environments and always one call under way: some steps with the policy that was the
newest when it was sent. What comes back counts when it is taken, with where the environments are then; the next call
goes on there. A process that dies takes its call along, and nothing else: another one begins where the last call that
was taken had ended. So no step is lost or counted twice, and a checkpoint needs nothing of the calls under way.

How stale a policy may be is bounded: by the updates that were made since it was sent, when its steps are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mtrl.core.errors import UserError
from mtrl.training.collecting import PartState
from mtrl.training.ray_collector import Block, RayWorkers, packed, unpacked

_MOST_LOST = 10
"""Processes that may die without a call that comes back."""


class Arrival(NamedTuple):
    """The steps of one call."""

    copies: range
    block: Block
    staleness: int
    """Updates since the policy was sent."""


class _Call(NamedTuple):
    part: int
    version: int


def must_wait(ages: Sequence[int], each: int, most: int) -> bool:
    """Whether the steps of the oldest policy are to be taken next, lest one becomes too old.

    Taken one after another, the i-th oldest is taken after i more turns. Where any may be taken first, this must still
    hold for all others one turn later. A policy that is sent now is the youngest, so `most` is never passed if it is
    at least `each` times the number of processes.

    Args:
        ages: updates since each policy under way was sent.
        each: updates of one turn, at most.
        most: the oldest that a policy may be.
    """
    return any(age + (i + 1) * each > most for i, age in enumerate(sorted(ages, reverse=True)))


class RayStream(RayWorkers):
    """The calls under way.

    Args:
        steps: R, of each copy in one call.
        each: updates for the steps of one call, at most.
        most: updates that a policy may be behind when its steps are taken.
        rest: as of `RayWorkers`.
    """

    def __init__(self, steps: int, each: int, most: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._steps, self._each, self._most = steps, each, most
        self._calls: dict[Any, _Call] = {}
        self._policy: tuple[int, bytes, Any] = (-1, b"", self._ray.put(b""))
        self._lost_in_a_row = 0

    def take(self, version: int) -> Arrival:
        """Wait for the steps of one call. All processes without a call begin one.

        version: the number of updates so far, which names the newest policy; negative for random actions.
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
                raise UserError(f"Collectors should live. Found {self._lost_in_a_row} that died one after another.")
        block, self._states[part] = answer
        self._lost_in_a_row = 0
        self._count(steps=block.nbytes, states=len(answer[1]))
        return Arrival(self._config.parts[part], block, ages[call])

    def begin(self, version: int) -> None:
        """Let all processes that have nothing to do go on with the newest policy."""
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
        """part -> where its environments are after the last steps that were taken, of those that have begun."""
        return {str(part): unpacked(state) for part, state in enumerate(self._states) if state is not None}

    def load_state_dict(self, states: Mapping[str, PartState]) -> None:
        """The calls under way are forgotten, and their processes begin anew."""
        for call in self._calls.values():
            self._ray.kill(self._workers[call.part])
            self._workers[call.part] = self._start(call.part)
        self._calls.clear()
        self._states = [packed(states[str(p)]) if str(p) in states else None for p in range(self._config.workers)]
        self._behind = set(range(self._config.workers))
