"""Data sets of episodes in Minari's format, one for each task (minari.farama.org; needs the extra `minari`).

The data set of a task is the folder `<root>/<benchmark>/<task>-v0`. With MINARI_DATASETS_PATH=<root>, Minari finds it
as `<benchmark>/<task>-v0`. Data sets that other programs wrote there can be read as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrl.core.errors import UserError, expected, missing, reading
from mtrl.core.records import read_json
from mtrl.core.types import BoolArray, FloatArray, Transitions

_ROUNDING = 1e-4
"""How far beyond ±1 an action may lie."""


class Episode(NamedTuple):
    """L steps of one episode, or of a part of it."""

    observations: FloatArray
    """(L + 1, O)"""
    actions: FloatArray
    """(L, A)"""
    rewards: FloatArray
    """(L,)"""
    terminated: BoolArray
    """(L,)"""


def _minari() -> Any:
    try:
        import minari
        import minari.dataset._storages.hdf5_storage
    except ImportError as error:
        raise missing("A data set", "minari[hdf5]", "minari", str(error)) from error
    return minari


def place(root: Path | str, benchmark: str, task: str) -> Path:
    """The folder of a task's data set."""
    return Path(root) / benchmark / f"{task}-v0"


def facts_of(folder: Path) -> dict[str, Any]:
    """The metadata of a data set; {} if there is no such folder.

    Raises:
        UserError: the metadata are missing or damaged.
    """
    return read_json(folder / "data" / "metadata.json", {str: object}) if folder.exists() else {}


def write(root: Path, benchmark: str, task: str, episodes: Iterable[Episode], facts: dict[str, Any]) -> Path:
    """Write the data set of a task, and return its folder. facts: metadata to add.

    Raises:
        UserError: the folder exists, there are no episodes, or Minari is not installed.
    """
    minari, folder, found = _minari(), place(root, benchmark, task), list(episodes)
    if folder.exists():
        raise expected(f"Folder {folder}", "new", "one that exists")
    if not found:
        raise expected(f"The data of {task}", "at least one episode", "none")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    aside, first = folder.absolute().with_name(f".{folder.name}"), found[0]  # renamed when complete
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "data").mkdir(parents=True)
    space = Box(-np.inf, np.inf, first.observations.shape[1:], np.float32)
    storage = MinariStorage.new(aside / "data", space, Box(-1.0, 1.0, first.actions.shape[1:], np.float32))
    about = {"dataset_id": f"{benchmark}/{task}-v0", "minari_version": minari.__version__, "author": {"mtrl"}}
    storage.update_metadata({**about, **facts})
    storage.update_episodes(EpisodeBuffer(number, **_columns(episode)) for number, episode in enumerate(found))
    aside.rename(folder)
    return folder


def _columns(episode: Episode) -> dict[str, Any]:
    """An episode's arrays as Minari stores them. If its last step has not terminated, it counts as truncated."""
    truncated = np.zeros(len(episode.rewards), bool)
    truncated[-1] = not episode.terminated[-1]
    return {
        "observations": episode.observations.astype(np.float32),
        "actions": episode.actions.astype(np.float32),
        "rewards": episode.rewards.astype(np.float64),
        "terminations": episode.terminated.astype(bool),
        "truncations": truncated,
    }


class DataSet(NamedTuple):
    """The data set of one task."""

    transitions: Transitions
    """The M transitions: fields (1, M, ..) float32."""
    mean_return: float
    """The mean return of the episodes read."""


def read(
    root: Path | str, benchmark: str, tasks: Sequence[str], sizes: tuple[int, int], most: int | None
) -> list[DataSet]:
    """Read the data set of each task.

    Args:
        sizes: the sizes of an observation and of an action, each flattened.
        most: about how many transitions of each task to read, as complete episodes spread evenly. None reads all.

    Raises:
        UserError: a data set is missing or damaged, has other sizes, numbers that are not finite or actions beyond its
            limits (±1 where it has none), or Minari is not installed.
    """
    _minari()
    found = []
    for task in tasks:
        folder = place(root, benchmark, task)
        if not folder.is_dir():
            hint = f"`mtrl data collect RUN` writes them from a run of benchmark={benchmark}"
            raise UserError(
                f"Data sets should lie in {Path(root) / benchmark}, one for each task. Found no {folder}; {hint}."
            )
        with reading(folder, "a data set in Minari's format, of continuous actions", "Folder"):
            found.append(_read(folder, sizes, most))
    return found


def _read(folder: Path, sizes: tuple[int, int], most: int | None) -> DataSet:
    from minari import MinariDataset

    data = MinariDataset(folder.absolute() / "data")
    count = data.total_episodes
    if most is not None:
        count = max(1, min(count, most * count // max(1, data.total_steps)))
    chosen = np.linspace(0, data.total_episodes - 1, count).astype(int)
    columns: list[list[Any]] = [[], [], [], [], []]
    for episode in data.iterate_episodes(chosen):
        steps = len(episode.rewards)
        observations, actions = (np.reshape(a, (len(a), -1)) for a in (episode.observations, episode.actions))
        if (observations.shape[1], actions.shape[1]) != sizes:
            raise expected(f"The episodes of {folder}", f"of sizes {sizes}", (observations.shape, actions.shape))
        lengths = len(observations), len(actions), steps, len(episode.terminations)
        if lengths != (steps + 1, steps, steps, steps):
            what = "of equally many actions, rewards and terminations, and of one observation more"
            raise expected(f"The episodes of {folder}", what, f"{lengths} (observations first)")
        row = (observations[:-1], actions, episode.rewards, observations[1:], episode.terminations)
        for column, part in zip(columns, row, strict=True):
            column.append(np.asarray(part, np.float32))
    parts = [torch.from_numpy(np.concatenate(column)).unsqueeze(0) for column in columns]
    if not all(bool(part.isfinite().all()) for part in parts):
        raise expected(f"The numbers of {folder}", "finite", "others")
    observation, action, reward, successor, terminated = parts
    action = _scaled(action, data.action_space)
    largest = float(action.abs().max())
    if largest > 1 + _ROUNDING:
        raise expected(f"The actions of {folder}", "within the limits of its action space, scaled to ±1", largest)
    transitions = Transitions(observation, action, reward, successor, terminated)
    return DataSet(transitions, float(np.mean([rewards.sum() for rewards in columns[2]])))


def _scaled(action: Tensor, space: Any) -> Tensor:
    """Actions (1, M, A) of a space with limits -> between -1 and 1, as agents act. Others stay as they are.

    Environments scale agents' actions to their own limits. In other programs' data sets, actions have those limits.
    """
    low, high = (np.reshape(getattr(space, name, np.inf), (-1,)).astype(np.float32) for name in ("low", "high"))
    limited = np.isfinite(low) & np.isfinite(high) & (low < high)
    low, high = (torch.from_numpy(np.where(limited, limit, usual)) for limit, usual in ((low, -1.0), (high, 1.0)))
    return (action - (low + high) / 2) / ((high - low) / 2)  # exactly the same actions for limits of -1 and 1
