"""Steps the copies of all tasks from Python where the tasks cannot be compiled to C. `native` does the same in C."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtrl.envs.metaworld.arithmetic import TaskArithmetic
from mtrl.envs.metaworld.episodes import Episodes
from mtrl.envs.metaworld.physics import TaskPhysics
from mtrl.envs.metaworld.workers import Workers


class PythonSteps:
    """Runs the tasks' physics and arithmetic on the engine's threads."""

    def __init__(
        self, tasks: Sequence[tuple[TaskPhysics, TaskArithmetic]], episodes: Episodes, workers: Workers
    ) -> None:
        self._tasks, self._episodes, self._workers = tasks, episodes, workers
        self._jobs: list[Callable[[int], None]] = []

    def plan(self, chunks: Sequence[tuple[int, int, int]]) -> None:
        """Set what each `run` steps. A chunk (t, first, last) means the copies ``first`` to ``last`` − 1 of task t."""
        self._jobs = [self._job(*chunk) for chunk in chunks]

    def run(self) -> int:
        """Step all planned copies. Returns how many episodes have ended."""
        jobs = self._jobs
        self._episodes.begin()
        self._workers.run(lambda job, worker: jobs[job](worker), range(len(jobs)))
        return self._episodes.end()

    def close(self) -> None:
        """Nothing to close: the threads belong to the engine."""

    def _job(self, t: int, first: int, last: int) -> Callable[[int], None]:
        """A function that steps a chunk: all physics, then all arithmetic, so that their code stays in the cache."""
        physics, arithmetic = self._tasks[t]
        advance, evaluate = physics.advance(first, last), arithmetic.evaluate(first, last)

        def step(worker: int) -> None:
            advance(worker)
            evaluate()

        return step
