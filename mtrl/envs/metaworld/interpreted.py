"""Steps the copies of all tasks from Python where the tasks cannot be compiled to C. `native` does the same in C."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtrl.envs.metaworld.arithmetic import TaskArithmetic
from mtrl.envs.metaworld.episodes import Episodes
from mtrl.envs.metaworld.physics import TaskPhysics
from mtrl.envs.metaworld.workers import Workers


class PythonSteps:
    """Runs the tasks' physics on the engine's threads, and then their arithmetic in the calling thread.

    Physics runs without the global interpreter lock. Arithmetic needs it, so more threads would not make it faster.
    """

    def __init__(
        self, tasks: Sequence[tuple[TaskPhysics, TaskArithmetic]], episodes: Episodes, workers: Workers
    ) -> None:
        self._tasks, self._episodes, self._workers = tasks, episodes, workers
        self._physics: list[Callable[[int], None]] = []
        self._arithmetic: list[Callable[[], None]] = []

    def plan(self, chunks: Sequence[tuple[int, int, int]]) -> None:
        """Set what each `run` steps. A chunk (t, first, last) means the copies ``first`` to ``last`` − 1 of task t."""
        self._physics = [self._tasks[t][0].advance(first, last) for t, first, last in chunks]
        self._arithmetic = [self._tasks[t][1].evaluate(first, last) for t, first, last in chunks]

    def run(self) -> int:
        """Step all planned copies. Returns how many episodes have ended."""
        physics = self._physics
        self._episodes.begin()
        self._workers.run(lambda job, worker: physics[job](worker), range(len(physics)))
        for evaluate in self._arithmetic:
            evaluate()
        return self._episodes.end()

    def close(self) -> None:
        """Nothing to close: the threads belong to the engine."""
