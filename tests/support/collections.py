"""Checks of what collectors send, and a stand-in for Ray in this process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np


class Watch:
    """Checks that the steps of each collector go on where those that were taken before have ended."""

    def __init__(self, loop: Any) -> None:
        self.ends: dict[int, Any] = {}
        self.stale: list[int] = []
        self._loop, self._take = loop, loop.collector.take
        loop.collector.take = self.take

    def take(self, version: int) -> Any:
        found = self._take(version)
        before = self.ends.get(found.copies.start)
        assert before is None or (found.block.observation[:, 0] == before).all()
        self.ends[found.copies.start] = found.block.observation[:, -1]
        self.stale.append(found.staleness)
        return found

    def learn(self, steps: int) -> dict[str, Any]:
        """Go on to this number of steps. Each step is counted and stored once, and earns its updates."""
        loop, metrics = self._loop, dict[str, Any]()
        while loop.step < steps:
            metrics = loop.advance() or metrics
        config = loop.config
        size = config.collector_steps * config.envs_per_task // config.workers
        first = -(-config.learning_starts // size) * size - size
        assert loop.step == loop.replay.state_dict()["total"]
        assert loop.updates == int((loop.step - first) * config.update_to_data) or loop.step <= first
        return metrics


class _Died(Exception):
    pass


class StandIn:
    """What collectors use of Ray. Calls end in any order; a share of them ends with the death of the actor."""

    exceptions = SimpleNamespace(RayActorError=_Died, RayTaskError=type("RayTaskError", (Exception,), {}))

    def __init__(self, seed: int, deaths: float) -> None:
        self._random, self._deaths = random.Random(seed), deaths

    @contextlib.contextmanager
    def connected(self, *_: Any) -> Iterator[StandIn]:
        yield self

    @staticmethod
    def nothing() -> contextlib.AbstractContextManager[list[int]]:
        """No cores for a worker, which is not a process here."""
        return contextlib.nullcontext([])

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 9}

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: Any) -> None:
        actor.dead = True

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def started(made: Any) -> Any:
            return SimpleNamespace(dead=False, collect=_Method(made))

        return lambda cls: SimpleNamespace(remote=lambda *arguments: started(cls(*arguments)))

    def wait(self, calls: list[Any]) -> tuple[list[Any], list[Any]]:
        return [self._random.choice(calls)], []

    def get(self, call: Any) -> Any:
        """Arrays come back read-only, as from Ray's object store."""
        block, state = call()
        for array in block:
            array.flags.writeable = False
        if self._random.random() < self._deaths:
            raise _Died
        return block, state


class _Method:
    def __init__(self, made: Any) -> None:
        self._made = made

    def remote(self, policy: bytes, noise: np.ndarray[Any, Any], state: bytes | None) -> Callable[[], Any]:
        return lambda: self._made.collect(policy, noise, state)
