"""Demonstrations on disk: collected from a benchmark's experts, or imported from RLBench's folders."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.core.config import check
from mtrl.core.cores import available_cores
from mtrl.core.errors import UserError, expected
from mtrl.core.registry import import_by_name, imported
from mtrl.core.specs import KeyframeSpec
from mtrl.core.suite import Suite
from mtrl.data import rlbench_layout
from mtrl.data.demo_cache import CacheWriter, task_facts
from mtrl.data.demos import Demo, decision_frames, keyframes
from mtrl.envs import SUITES
from mtrl.experiment.config import compose
from mtrl.monitoring.progress import counting


@dataclass(frozen=True)
class _Job:
    """One task's demonstrations, to be collected by one process."""

    benchmark: Any
    """The suite's configuration, with only this task."""
    task: str
    episodes: int
    seed: int
    folder: Path
    layout: str


def collect(
    options: Sequence[str], episodes: int, seed: int, output: Path, layout: str = "cache", jobs: int = 0
) -> Path:
    """Write `episodes` demonstrations of each task. A cache that already has them is kept.

    Args:
        options: key=value overrides; benchmark=... must name a suite with experts.
        output: the folder in which the benchmark gets a folder of its name.
        layout: cache (only frames at which a policy decides) or rlbench (every frame and all five cameras, in RLBench's
            folders, which must be new).
        jobs: the number of processes, each of which collects one task at a time; one per core if 0. A suite that does
            not allow several (`parallel_demonstrations`) is collected in this process.

    Returns:
        The benchmark's folder.

    Raises:
        UserError: the benchmark has no experts, or the folder holds other demonstrations.
    """
    check(episodes >= 1, "--episodes", "a positive integer", episodes)
    check(jobs >= 0, "--jobs", "0 or more", jobs)
    benchmark = compose(options).benchmark
    suite: Suite = SUITES.build(benchmark)
    check(seed >= 0, "--seed", "0 or more", seed)
    suite.demonstrations(seed, 0)  # refuses where there are no experts
    folder = output / suite.name
    made = [
        _Job(benchmark.restricted([task]), task, episodes, seed, folder, layout)
        for task in suite.tasks
        if not _complete(folder, task, suite, episodes, seed, layout)
    ]
    workers = min(jobs or available_cores(), len(made)) if suite.parallel_demonstrations else 1
    with counting(len(made) * episodes, "demonstrations") as count:
        if workers > 1:
            _spread(made, workers, count)
        else:
            for job in made:
                _collect(job, count)
    return folder


def _facts(episodes: int, seed: int) -> dict[str, Any]:
    return {"source": "experts", "episodes": episodes, "seed": seed}


def _keyframes(suite: Suite) -> KeyframeSpec:
    if not isinstance(suite.spec, KeyframeSpec):
        raise expected(f"Benchmark {suite.name}", "one of keyframe tasks", "another kind")
    return suite.spec


def _complete(folder: Path, task: str, suite: Suite, episodes: int, seed: int, layout: str) -> bool:
    """Whether the task already has these demonstrations. Raises UserError where it has others."""
    if layout == "rlbench":
        if (folder / task).exists():
            raise expected(f"Folder {folder / task}", "new", "one that exists")
        return False
    spec = _keyframes(suite)
    wanted = {**_facts(episodes, seed), "size": spec.image_size, "cameras": list(spec.cameras)}
    facts = task_facts(folder, task)
    if facts is None:
        return False
    if (variation := suite.description().get("variation")) is not None:
        wanted, facts = wanted | {"variation": variation}, facts | {"variation": facts["benchmark"].get("variation")}
    other = {key: facts.get(key) for key, value in wanted.items() if facts.get(key) != value}
    if other:
        known = {key: wanted[key] for key in other}
        raise UserError(f"Cache {folder / task} should be new, or have {known}. Found {other}.")
    return True


def _collect(job: _Job, count: Callable[[], None]) -> None:
    suite: Suite = SUITES.build(job.benchmark)
    with contextlib.ExitStack() as stack:
        if job.layout == "rlbench":
            number = iter(range(job.episodes))
            write: Callable[[Demo], Any] = lambda demo: rlbench_layout.write_demo(demo, job.folder, next(number))  # noqa: E731
        else:
            spec = _keyframes(suite)
            facts = {**_facts(job.episodes, job.seed), "benchmark": suite.description()}
            writer = CacheWriter(job.folder, job.task, spec.cameras, spec.image_size, facts)
            write = stack.enter_context(writer).add
        for demo in suite.demonstrations(job.seed, job.episodes, every_frame=job.layout == "rlbench"):
            write(demo)
            count()


_queue: Any = None
"""In a process that `_spread` has started: the queue in which it reports each demonstration."""


def _begin(queue: Any, modules: list[str]) -> None:
    global _queue
    _queue = queue
    import_by_name(modules)


def _in_process(job: _Job) -> None:
    _collect(job, lambda: _queue.put(1))


def _spread(jobs: Sequence[_Job], workers: int, count: Callable[..., None]) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with ProcessPoolExecutor(workers, context, _begin, (queue, imported)) as pool:
        waiting = {pool.submit(_in_process, job) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    count(queue.get())
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def cache(folder: Path, options: Sequence[str], episodes: int | None, output: Path) -> Path:
    """Make a cache of the demonstrations in RLBench's folders. Returns the cache's folder.

    It replaces an existing cache of the same tasks.

    Args:
        folder: the folder that holds <task>/variation<N>/episodes/episode<M>; variation<N> may be all_variations.
        options: key=value overrides; the benchmark's tasks, cameras and image_size choose what is taken.
        episodes: how many episodes of each task to take, in the order of their numbers; all if not given.
        output: as in `collect`.

    Raises:
        UserError: a task has too few demonstrations, a file is missing or damaged, or something else than a cache
            stands where a task's cache should be. The message names it.
    """
    check(episodes is None or episodes >= 1, "--episodes", "a positive integer", episodes)
    suite: Suite = SUITES.build(compose(options).benchmark)
    spec = _keyframes(suite)
    found = {task: rlbench_layout.episodes(folder, task)[:episodes] for task in suite.tasks}
    for task, paths in found.items():
        if episodes is not None and len(paths) < episodes:
            raise expected(f"Folder {folder / task}", f"of at least {episodes} demonstrations", len(paths))
    with counting(sum(map(len, found.values())), "demonstrations") as count:
        for task, paths in found.items():
            facts = {"source": str(folder), "episodes": len(paths), "benchmark": suite.description()}
            with CacheWriter(output / suite.name, task, spec.cameras, spec.image_size, facts) as writer:
                for path in paths:
                    writer.add(_with_decision_pictures(path, spec.cameras), str(path))
                    count()
    return output / suite.name


def _with_decision_pictures(path: Path, cameras: Sequence[str]) -> Demo:
    """Read a demonstration and decode only the pictures of its decision frames."""
    keys = keyframes(rlbench_layout.read_demo(path, cameras, frames=()))
    return rlbench_layout.read_demo(path, cameras, frames=decision_frames(keys))
