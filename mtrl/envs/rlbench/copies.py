"""Evaluation in RLBench: one simulator for each task, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mtrl.core.errors import UserError
from mtrl.core.types import FloatArray
from mtrl.data.demos import Frame
from mtrl.data.keyframe_envs import KeyframeStep
from mtrl.envs.rlbench.simulator import Simulator


def scene_seed(seed: int, task: str, number: int, stream: str) -> int:
    """The seed of scene `number` of a task. The streams, demos and evaluation, have different seeds."""
    words = [seed, number, *f"{stream}/{task}".encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class RLBenchCopies:
    """Implements `KeyframeEnvs` with one copy of each task, because a simulator holds one scene.

    If an action has no inverse-kinematics solution or no path to it is found, its episode ends as a failure. So does an
    episode that is not solved within the horizon.
    """

    envs_per_task = 1

    def __init__(self, simulators: Sequence[Any], tasks: Sequence[str], seed: int, horizon: int) -> None:
        """simulators: one for each task, with `reset`, `step` and `close` as in `Simulator`; horizon: in keyframes."""
        self.num_tasks = len(tasks)
        self._simulators, self._tasks, self._seed, self._horizon = list(simulators), list(tasks), seed, horizon
        self._frames: list[list[Frame]] = []

    def reset(self, first: int = 0) -> Sequence[Sequence[Frame]]:
        seeds = [scene_seed(self._seed, task, first, "evaluation") for task in self._tasks]
        self._frames = [[frame] for frame in _each(self._simulators, "reset", [(seed,) for seed in seeds])]
        self._steps = 0
        self._success, self._over = (np.zeros((self.num_tasks, 1), bool) for _ in range(2))
        return self._frames

    def step(self, action: FloatArray) -> KeyframeStep:
        going = np.flatnonzero(~self._over[:, 0])
        found = _each([self._simulators[t] for t in going], "step", [(action[t, 0],) for t in going])
        self._steps += 1
        for t, (frame, success) in zip(going, found, strict=True):
            self._success[t, 0] = success
            self._over[t, 0] = success or frame is None or self._steps >= self._horizon
            if frame is not None:
                self._frames[t] = [frame]
        return KeyframeStep(self._frames, self._success.copy(), self._over.copy())

    def close(self) -> None:
        for simulator in self._simulators:
            simulator.close()


def _each(simulators: Sequence[Any], method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of each simulator. Those in other processes run it at the same time."""
    for simulator, given in zip(simulators, arguments, strict=True):
        if isinstance(simulator, SimulatorProcess):
            simulator.send(method, *given)
    return [
        s.receive() if isinstance(s, SimulatorProcess) else getattr(s, method)(*given)
        for s, given in zip(simulators, arguments, strict=True)
    ]


class SimulatorProcess:
    """A `Simulator` in another process, since a process cannot run CoppeliaSim twice at the same time."""

    def __init__(self, *arguments: Any) -> None:
        """arguments: those of `Simulator`. The first `receive` returns None once it is made, or raises its error."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, method: str, *arguments: Any) -> None:
        with self._while_it_runs():
            self._pipe.send((method, arguments))

    @staticmethod
    @contextlib.contextmanager
    def _while_it_runs() -> Iterator[None]:
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError("A simulator's process ended unexpectedly.") from None

    def receive(self) -> Any:
        """The answer to the oldest open call.

        If the call failed, raises its UserError, or a RuntimeError that quotes any other error. Like `send`, it also
        raises RuntimeError if the process has ended.
        """
        with self._while_it_runs():
            kind, value = self._pipe.recv()
        if kind == "error":
            raise value
        return value

    def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):
                self._pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
        self._pipe.close()


def _serve(pipe: Any, arguments: tuple[Any, ...]) -> None:
    simulator: Simulator | None = None
    try:
        simulator = Simulator(*arguments)
        pipe.send(("value", None))
        while (call := pipe.recv()) is not None:
            method, given = call
            pipe.send(("value", getattr(simulator, method)(*given)))
    except EOFError:
        pass
    except UserError as error:
        pipe.send(("error", error))
    except Exception as error:
        pipe.send(("error", RuntimeError(f"{type(error).__name__}: {error}")))
    finally:
        if simulator is not None:
            simulator.close()
