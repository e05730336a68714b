"""Data sets of transitions from a run: episodes of its policy, or the replay of its newest checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec
from mtrl.core.types import Transitions
from mtrl.data import minari_files
from mtrl.data.minari_files import Episode
from mtrl.data.replay import ReplayBuffer
from mtrl.experiment.load import load
from mtrl.experiment.parts import Experiment
from mtrl.monitoring import checkpoints
from mtrl.monitoring.progress import counting
from mtrl.monitoring.run import RunFolder
from mtrl.training.off_policy import OffPolicyTrainer


def collect(
    run: Path, output: Path, episodes: int = 100, random: float = 0.0, replay: bool = False, seed: int = 1
) -> list[Path]:
    """Write a data set in Minari's format for each task of a run, and return their folders.

    Those that already exist and were made in the same way are kept.

    Args:
        run: the run's folder.
        output: the folder of all data sets; see `minari_files.place`.
        episodes: how many episodes of each task the run's deterministic policy plays.
        random: the share of random actions in the last episode. It rises linearly from 0 in the first one, so that 1
            gives episodes of every quality. A single episode has none. The same random numbers are drawn for all tasks.
        replay: whether to write the replay of the run's newest checkpoint instead.
        seed: the seed of the environments and the random actions.

    Raises:
        UserError: the tasks do not have vectors of observations and actions, the run has no replay, or a data set
            exists that was made in another way.
    """
    check(episodes >= 1, "--episodes", "a positive integer", episodes)
    check(seed >= 0, "--seed", "0 or more", seed)
    plays = (episodes, random, seed) != (100, 0.0, 1)
    check(not (replay and plays), "--replay", "given without --episodes, --random and --seed", "one of them")
    check(0 <= random <= 1, "--random", "in [0, 1]", random)
    experiment, folder, step = load(run)
    name, tasks, spec = experiment.suite.name, experiment.tasks, experiment.suite.spec
    if type(spec) is not ControlSpec:
        raise expected(f"Benchmark {name}", "one whose tasks have vectors of observations and actions", "another")
    what = "replay" if replay else f"{episodes} episodes (seed {seed}), random actions up to a share of {random}"
    # Older data sets name the run as it was typed then.
    about, typed = (f"{what}, of {path} at step {step}" for path in (folder.path.resolve(), folder.path))
    folders = [minari_files.place(output, name, task) for task in tasks]
    there = [minari_files.facts_of(path).get("description", "none") for path in folders]
    for path, other in zip(folders, there, strict=True):  # checked before any episode is played
        if path.exists() and other not in (about, typed):
            raise expected(f"Folder {path}", f"new, or {about}", other)
    if all(path.exists() for path in folders):
        return folders
    stored = (list(in_episodes(part, spec.horizon)) for part in _stored(experiment, folder)) if replay else None
    found = stored or _played(experiment, episodes, random, seed)
    facts = {"algorithm_name": experiment.config.agent.kind, "description": about}
    for path, task, each in zip(folders, tasks, found, strict=True):
        if not path.exists():
            minari_files.write(output, name, task, each, facts)
    return folders


def _played(experiment: Experiment, episodes: int, random: float, seed: int) -> list[list[Episode]]:
    """`episodes` episodes of each task, played by up to ten copies of its environment at once.

    Copy n of N plays the episodes n, n + N, ... If the first to end were taken, long episodes would be left out.
    """
    rng, copies, policy = np.random.default_rng(seed), min(episodes, 10), experiment.trainer.policy
    shares = np.linspace(0, random, episodes)
    found: list[dict[int, Episode]] = [{} for _ in experiment.tasks]
    with contextlib.closing(experiment.suite.make_envs(seed, copies)) as envs:
        steps: list[list[list[Any]]] = [[[] for _ in range(copies)] for _ in experiment.tasks]
        before = envs.reset().copy()
        begun = np.tile(np.arange(copies), (len(found), 1))  # the number of the episode that each copy plays
        with counting(episodes * len(found), "episodes") as count:
            while min(map(len, found)) < episodes:
                action = policy(before)
                chosen = rng.random(copies) < shares[np.minimum(begun, episodes - 1)]
                action = np.where(chosen[..., None], rng.uniform(-1, 1, action.shape[1:]), action).astype(np.float32)
                step = envs.step(action)
                for task, n in np.ndindex(begun.shape):
                    place = task, n
                    row = before[place], action[place], step.reward[place], step.terminated[place]
                    steps[task][n].append([np.array(part) for part in row])
                    if step.terminated[place] or step.truncated[place]:
                        if begun[place] < episodes:
                            found[task][begun[place]] = _episode(steps[task][n], step.next_observation[place].copy())
                            count()
                        steps[task][n] = []
                        begun[place] += copies
                before = step.observation.copy()
    return [[each[number] for number in range(episodes)] for each in found]


def _episode(steps: list[list[Any]], last: Any) -> Episode:
    observations, actions, rewards, terminated = (np.stack(column) for column in zip(*steps, strict=True))
    return Episode(np.concatenate([observations, last[None]]), actions, rewards, terminated)


def _stored(experiment: Experiment, folder: RunFolder) -> Iterator[Transitions]:
    """For each task, the M transitions (1, M, ..) in the newest checkpoint's replay.

    In the replay, the transitions of a task's N environments alternate. Here, all transitions of one environment come
    before those of the next, in the order of time.
    """
    trainer, found = experiment.trainer, checkpoints.newest(folder.checkpoints)
    if type(trainer) is not OffPolicyTrainer:
        what = "one with training=off_policy and training.collector=local, for its replay"
        raise expected(f"Run {folder.path}", what, type(trainer).__name__)
    if found is None:
        raise expected(f"Run {folder.path}", "one with a checkpoint, for its replay", "none")
    buffer: ReplayBuffer = trainer.empty_replay()
    buffer.load_state_dict(found.replay)
    whole, copies = buffer.ordered(), trainer.config.envs_per_task
    oldest = len(buffer) % copies  # where not all copies' transitions of the oldest step are left, it is left out
    turns = torch.cat([torch.arange(oldest + n, len(buffer), copies) for n in range(copies)])
    for task in range(buffer.num_tasks):
        yield whole.map(lambda part, task=task: part[task : task + 1, turns])


def in_episodes(transitions: Transitions, horizon: int) -> Iterator[Episode]:
    """Divide M transitions (1, M, ..), those of each environment in the order of time, into episodes.

    An episode ends at a termination, after `horizon` steps, or where a transition's successor is not the observation of
    the next transition.
    """
    observation, action, reward, successor, terminated = (part[0].cpu().numpy() for part in transitions[:5])
    goes_on = (successor[:-1] == observation[1:]).all(-1) & (terminated[:-1] == 0)
    first = 0
    for last in [*np.flatnonzero(~goes_on).tolist(), len(reward) - 1]:
        for begin in range(first, last + 1, horizon):
            rows = slice(begin, min(begin + horizon, last + 1))
            seen = np.concatenate([observation[rows], successor[rows.stop - 1][None]])
            yield Episode(seen, action[rows], reward[rows], terminated[rows] > 0)
        first = last + 1
