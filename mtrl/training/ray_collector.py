"""Rollouts collected by processes of a Ray cluster, one for each part of the environments.

A rollout takes one call of each process. The policy is sent as one block of bytes, and the exploration noise as one
array. The steps come back as one array for each field, with the state of the part's environments. So if a process dies,
the learner has everything that a new one needs to take the same steps again, and no step is lost or counted twice.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.core.cluster import connected
from mtrl.core.cores import free_cores
from mtrl.core.errors import UserError, expected
from mtrl.core.types import BoolArray, FloatArray, StepResult
from mtrl.training.collecting import RANDOM, Actor, Clock, CollectorConfig, Part, PartState, Step
from mtrl.training.control import make_part

_MOST_LOST = 10
"""The largest number of processes that may die in one rollout."""
Rebuild = Callable[[], tuple[Any, Any]]
"""Builds the agent, on the CPU, and the suite. It can be pickled."""


class Block(NamedTuple):
    """R steps of a part's n copies of every task."""

    observation: NDArray[np.float32]
    """(T, R + 1, n, O): the observations of the R steps, and the next ones to act on."""
    action: NDArray[np.float32]
    """(T, R, n, A), not clipped."""
    reward: FloatArray
    """(T, R, n)"""
    ends: BoolArray
    """(3, T, R, n): terminated, truncated, success."""
    last: NDArray[np.float32]
    """(K, O): the last observations of the K episodes that ended; ordered by step, then task, then copy."""

    @classmethod
    def of(cls, steps: Sequence[Step], following: torch.Tensor, last: Sequence[NDArray[Any]]) -> Block:
        """Join R steps.

        Args:
            following: (T, n, O), the next observations to act on.
            last: for each step, the last observations (.., O) of the episodes that ended.
        """
        observation = torch.stack([*(step.observation for step in steps), following], 1).numpy()
        action = torch.stack([step.action for step in steps], 1).numpy()
        reward = np.stack([step.result.reward for step in steps], 1)
        names = ("terminated", "truncated", "success")
        ends = np.stack([np.stack([getattr(step.result, name) for step in steps], 1) for name in names])
        return cls(observation, action, reward, ends, np.concatenate(last, dtype=np.float32))

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in self)

    @property
    def next_observation(self) -> NDArray[np.float32]:
        """(T, R, n, O): the true successors, also where an episode ended."""
        found = self.observation[:, 1:].copy()
        np.moveaxis(found, 1, 0)[np.moveaxis(self.ends[0] | self.ends[1], 1, 0)] = self.last
        return found


class Worker:
    """Collects the steps of one part of the environments in a process of its own."""

    def __init__(self, rebuild: Rebuild, seed: int, envs_per_task: int, copies: range, cores: int) -> None:
        self._held = contextlib.ExitStack()  # the process keeps its cores until it ends
        if free := self._held.enter_context(free_cores(cores)):
            os.sched_setaffinity(0, free)
        self._agent, suite = rebuild()
        self._part = Part(self._agent, make_part(suite, seed, envs_per_task, copies))

    def collect(self, policy: bytes, noise: NDArray[np.float32], state: bytes | None) -> tuple[Block, bytes]:
        """Take R steps with one policy. Returns them and the packed state of the environments after them.

        Args:
            policy: the packed result of `Actor.exploring_state`; empty for random actions.
            noise: (T, R, n, A)
            state: the packed state of the environments to begin from; None to go on from the current one.
        """
        self._part.agent = self._agent if policy else RANDOM
        if policy:
            self._agent.load_exploring_state(unpacked(policy))
        if state is not None:
            self._part.load_state_dict(unpacked(state))
        steps, last = list[Step](), list[NDArray[Any]]()
        for drawn in torch.from_numpy(noise.copy()).unbind(1):
            step = self._part.step(drawn, lambda _: contextlib.nullcontext())
            result = step.result
            last.append(result.next_observation[result.terminated | result.truncated])
            arrays = (result.reward.copy(), result.terminated.copy(), result.truncated.copy())
            kept = StepResult(_NONE, *arrays, next_observation=_NONE, success=result.success.copy())
            steps.append(step._replace(result=kept))
        assert self._part.observation is not None
        return Block.of(steps, self._part.observation, last), packed(self._part.envs.state_dict())


_NONE = np.zeros(0)
"""Takes the place of observations in results, as other fields of a block hold them."""


class RayWorkers:
    """The processes, one for each part, and the state of the environments in each part.

    Args:
        shape: (T, N)
        seed: the environments' seed.
        clock: measures the times of acting and stepping.

    Raises:
        UserError: Ray is missing, there is no such cluster, or it has too few cores.
    """

    def __init__(
        self, config: CollectorConfig, agent: Actor, rebuild: Rebuild, shape: tuple[int, int], seed: int, clock: Clock
    ) -> None:
        self._config, self._agent, self._shape, self._clock = config, agent, shape, clock
        self._open = contextlib.ExitStack()
        where = (config.collector_address, "training.collector_address")
        self._ray = self._open.enter_context(connected("training.collector=ray", *where))
        self._check_cores()
        start = self._ray.remote(num_cpus=config.collector_cpus)(Worker).remote
        cores = config.collector_cpus
        self._start = lambda part: start(rebuild, seed, shape[1], config.parts[part], cores)
        self._workers = [self._start(part) for part in range(config.workers)]
        self._states: list[bytes | None] = [None] * config.workers
        """The packed state of each part's environments; None before the first call."""
        self._behind: set[int] = set()
        """Parts whose state their process must load before its next call."""
        self.lost = 0
        """Processes that have died."""
        self.bytes: dict[str, int] = dict.fromkeys(["policy", "noise", "steps", "states"], 0)
        """Bytes sent so far to all processes (policy, noise) and from them (steps, states)."""

    def _check_cores(self) -> None:
        config, found = self._config, int(self._ray.cluster_resources().get("CPU", 0))
        if found < config.workers * config.collector_cpus:
            what = f"at most {found // config.collector_cpus}: the cluster has {found} cores"
            raise expected("Option `training.workers`", what, config.workers)

    def _call(self, part: int, policy: Any, noise: NDArray[np.float32]) -> Any:
        """Let a part's process collect, from the part's current state. Returns a reference to the answer."""
        state = self._states[part] if part in self._behind else None
        self._behind.discard(part)
        return self._workers[part].collect.remote(policy, noise, state)

    def _answer(self, call: Any, part: int) -> tuple[Block, bytes] | None:
        """The result of a call. If its process has died or the result is lost, starts another one and returns None."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)  # type: ignore[no-any-return]
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayActorError:
            pass
        except errors.ObjectLostError:
            self._ray.kill(self._workers[part])  # it may still be alive
        self._workers[part] = self._start(part)
        self._behind.add(part)
        self.lost += 1
        return None

    def _count(self, **sizes: int) -> None:
        for name, size in sizes.items():
            self.bytes[name] += size

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._open.close()


class RayCollector(RayWorkers):
    """A `Collector` whose W processes collect a whole rollout in each call of `collect`."""

    def collect(self, most: int) -> Iterator[Step]:
        with self._clock("act"):
            noise = torch.stack([self._agent.noise(self._shape) for _ in range(most)], 1).cpu()
            shares = [share.numpy() for share in noise.chunk(self._config.workers, 2)]
            policy = packed(self._agent.exploring_state())
        with self._clock("step"):
            blocks = self._blocks(policy, shares)
        yield from _steps(blocks)

    def _blocks(self, policy: bytes, noise: Sequence[NDArray[np.float32]]) -> list[Block]:
        """The steps of each part. A process that dies is replaced by one that repeats the part's whole rollout."""
        sent, found, before = self._ray.put(policy), dict[int, tuple[Block, bytes]](), self.lost
        while missing := [part for part in range(len(noise)) if part not in found]:
            calls = {part: self._call(part, sent, noise[part]) for part in missing}
            found |= {part: answer for part, call in calls.items() if (answer := self._answer(call, part)) is not None}
            if (lost := self.lost - before) > _MOST_LOST:
                raise UserError(f"Collectors should not die. Found {lost} that died in one rollout; see Ray's logs.")
        blocks, self._states[:] = zip(*(found[part] for part in range(len(noise))), strict=True)
        self._count(policy=len(policy) * len(noise), noise=sum(share.nbytes for share in noise))
        self._count(steps=sum(block.nbytes for block in blocks), states=sum(len(state) for _, state in found.values()))
        return list(blocks)

    def state_dict(self) -> list[PartState]:
        return [unpacked(state) for state in self._states if state is not None]

    def load_state_dict(self, state: Sequence[PartState]) -> None:
        self._states = [packed(part) for part in state]
        self._behind = set(range(len(state)))


def _steps(blocks: Sequence[Block]) -> Iterator[Step]:
    """Join the parts along N, and yield their steps one after another."""
    names = ("observation", "action", "reward", "next_observation")
    observation, action, reward, successor = (np.concatenate([getattr(b, name) for b in blocks], 2) for name in names)
    terminated, truncated, success = np.concatenate([block.ends for block in blocks], 3)
    for r in range(reward.shape[1]):
        arrays = (reward[:, r], terminated[:, r], truncated[:, r], successor[:, r], success[:, r])
        result = StepResult(observation[:, r + 1], *arrays)
        yield Step(torch.from_numpy(observation[:, r]), torch.from_numpy(action[:, r]), result)


def packed(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def unpacked(state: bytes) -> dict[str, Any]:
    """Undo `packed`. Tensors are loaded to the CPU, as another process may not have the learner's GPU."""
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
