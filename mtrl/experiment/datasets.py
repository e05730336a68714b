"""Data sets of transitions from any run of environments: episodes that its policy plays, or its replay."""

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

    A data set that is already there, and was made in the same way, is kept.

    Args:
        run: its folder.
        output: the folder that gets one of the benchmark's name.
        episodes: of each task, played side by side by the run's deterministic policy.
        random: the share of random actions in the last episode; it rises from 0 in the first, so that 1 gives episodes
            of every quality. In every task the same steps of the same episodes are random, by the same actions.
        replay: write what the run's newest checkpoint has in its replay instead, from its first random steps on.
        seed: of the environments and the random actions.

    Raises:
        UserError: the run has no such environments or no replay, or there is such a data set already.
    """
    check(episodes >= 1, "--episodes", "a positive integer", episodes)
    check(0 <= random <= 1, "--random", "in [0, 1]", random)
    experiment, folder, step = load(run)
    name, tasks, spec = experiment.suite.name, experiment.tasks, experiment.suite.spec
    if type(spec) is not ControlSpec:
        raise expected(f"Benchmark {name}", "one whose tasks have vectors of observations and actions", "another")
    what = "replay" if replay else f"{episodes} episodes (seed {seed}), random actions up to a share of {random}"
    about = f"{what}, of {folder.path} at step {step}"
    folders = [minari_files.place(output, name, task) for task in tasks]
    there = [minari_files.facts_of(path).get("description", "none") for path in folders]
    if set(there) == {about}:
        return folders
    for path, other in zip(folders, there, strict=True):  # complain before anything is played
        if path.exists():
            raise expected(f"Folder {path}", f"new, or {about}", other)
    stored = (list(in_episodes(part, spec.horizon)) for part in _stored(experiment, folder)) if replay else None
    found = stored or _played(experiment, episodes, random, seed)
    facts = {"algorithm_name": experiment.config.agent.kind, "description": about}
    return [minari_files.write(output, name, task, each, facts) for task, each in zip(tasks, found, strict=True)]


def _played(experiment: Experiment, episodes: int, random: float, seed: int) -> list[list[Episode]]:
    """`episodes` episodes of each task, up to ten of each side by side."""
    rng, copies, policy = np.random.default_rng(seed), min(episodes, 10), experiment.trainer.policy
    shares = np.linspace(0, random, episodes)
    found: list[list[Episode]] = [[] for _ in experiment.tasks]
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
                        if len(found[task]) < episodes:
                            found[task].append(_episode(steps[task][n], step.next_observation[place].copy()))
                            count()
                        steps[task][n] = []
                        begun[place] = begun[task].max() + 1
                before = step.observation.copy()
    return found


def _episode(steps: list[list[Any]], last: Any) -> Episode:
    observations, actions, rewards, terminated = (np.stack(column) for column in zip(*steps, strict=True))
    return Episode(np.concatenate([observations, last[None]]), actions, rewards, terminated)


def _stored(experiment: Experiment, folder: RunFolder) -> Iterator[Transitions]:
    """What the replay of the newest checkpoint holds of each task and copy of its environments, in the order of time.

    Copies take turns in a ring, and are given one after another, task by task.
    """
    trainer, found = experiment.trainer, checkpoints.newest(folder.checkpoints)
    if type(trainer) is not OffPolicyTrainer or found is None:
        raise expected(f"Run {folder.path}", "one with a checkpoint and training=off_policy, for its replay", "another")
    buffer: ReplayBuffer = trainer.empty_replay()
    buffer.load_state_dict(found.replay)
    whole, copies = buffer.ordered(), trainer.config.envs_per_task
    turns = torch.cat([torch.arange(n, len(buffer), copies) for n in range(copies)])
    for task in range(buffer.num_tasks):
        yield whole.map(lambda part, task=task: part[task : task + 1, turns])


def in_episodes(transitions: Transitions, horizon: int) -> Iterator[Episode]:
    """Cut transitions (1, M, ..) where a successor is not the next observation, at terminations and at the horizon."""
    observation, action, reward, successor, terminated = (part[0].cpu().numpy() for part in transitions[:5])
    goes_on = (successor[:-1] == observation[1:]).all(-1) & (terminated[:-1] == 0)
    first = 0
    for last in [*np.flatnonzero(~goes_on).tolist(), len(reward) - 1]:
        for begin in range(first, last + 1, horizon):
            rows = slice(begin, min(begin + horizon, last + 1))
            seen = np.concatenate([observation[rows], successor[rows.stop - 1][None]])
            yield Episode(seen, action[rows], reward[rows], terminated[rows] > 0)
        first = last + 1
