"""A run's folder, which holds one seed of one experiment on one benchmark, and the rules for resuming it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml

from mtrl.core.errors import UserError, expected
from mtrl.core.records import read_json, read_yaml, require
from mtrl.monitoring import checkpoints, provenance
from mtrl.monitoring.changes import changes, completed, listed
from mtrl.monitoring.files import write_atomic, write_json

Status = Literal["new", "resume", "extend", "finished"]
_FOLDERS = ("tensorboard", "evaluations", "videos", "checkpoints")
POLICY = "policy.pt"
"""The file of a finished run that contains only the state that its policy needs to act."""
_BEFORE_CONFIG = {".lock", "provenance.json", *_FOLDERS}
FORMAT = 1
"""The version of run folders, in the first line of `config.yaml`. It increases when older folders become unreadable."""


def run_path(root: Path | str, benchmark: str, experiment: str, seed: int) -> Path:
    """`<root>/<benchmark>/<experiment>/seed_<n>`."""
    return Path(root) / benchmark / experiment / f"seed_{seed}"


class RunFolder:
    """A run on disk. Use `open` to train it, which locks the folder, or `load` to read it."""

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        status: Status,
        lock: int | None = None,
        created: Sequence[Path] = (),
        begin: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.status: Status = status
        self._lock, self._created, self._begin = lock, list(created), begin
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.evaluations = path / "evaluations"
        self.videos = path / "videos"
        self.checkpoints = path / "checkpoints"
        self.affinities = path / "affinity.json"
        self.policy = path / POLICY

    @classmethod
    def open(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        ignore: Collection[str] = (),
        defaults: Mapping[str, Any] = MappingProxyType({}),
        steps_key: str = "steps",
    ) -> RunFolder:
        """Create the run, or resume it, and lock it against other processes until `close`.

        `status` says which: "new", "resume" (same config), "extend" (only `steps_key` is larger) or "finished" (same
        config and a result). Before `begin`, an existing run does not change, but for repairs after a crash.

        Args:
            ignore: dotted keys that may differ, with everything below them.
            defaults: the values of options, and of groups of them, that the configuration of an older run may lack.
            steps_key: the dotted key of the number of steps.

        Raises:
            UserError: another key differs, `steps_key` is smaller, a file of the run is damaged, or the folder holds
                something else, cannot be written or is in use.
        """
        path, config = Path(path), _plain_yaml(config)
        if path.exists() and not path.is_dir():
            raise expected(f"Run folder {path}", "a folder", "a file")
        if path.is_dir() and not (path / "config.yaml").exists():
            _require_empty(path)
        created = _make_folders(path)
        lock = _take_lock(path, created)
        try:
            status, begin = _enter(path, config, ignore, _plain_yaml(defaults), steps_key)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise expected(f"Run folder {path}", "writable", error.strerror) from error
            raise
        return cls(path, config, status, lock, created, begin)

    @classmethod
    def load(cls, path: Path | str) -> RunFolder:
        """An existing run, for reading; its status is "finished" or "resume", and no lock is taken.

        Raises:
            UserError: there is no such folder, or no readable `config.yaml` in it.
        """
        path = Path(path)
        if not path.is_dir():
            found = "a file" if path.exists() else "no such folder"
            raise expected(f"Run folder {path}", "an existing folder that holds config.yaml", found)
        return cls(path, read_config(path), "finished" if (path / "result.json").exists() else "resume")

    @classmethod
    def is_finished(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        ignore: Collection[str] = (),
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> bool:
        """Whether `open` would find this run finished."""
        there = (path / "config.yaml").exists() and (path / "result.json").exists()
        return there and not changes(completed(read_config(path), _plain_yaml(defaults)), _plain_yaml(config), ignore)

    def begin(self) -> None:
        """Adapt the folder of an existing run to the new configuration. An old result of fewer steps moves to
        `evaluations/`. Call it when everything else has been checked."""
        if self._begin is not None:
            self._begin()

    @property
    def result(self) -> dict[str, Any] | None:
        """The result that `finish` wrote; None if the run has not finished."""
        file = self.path / "result.json"
        return read_result(file) if file.exists() else None

    def write_evaluation(self, step: int, evaluation: Mapping[str, Any], suffix: str = "") -> Path:
        """Keep the evaluation after `step` steps as `evaluations/step_<n><suffix>.json`; NaN becomes null."""
        path = self.evaluations / f"step_{step}{suffix}.json"
        self.evaluations.mkdir(exist_ok=True)
        write_json(path, evaluation)
        return path

    def read_affinities(self) -> dict[str, Any]:
        """{"tasks": names, "affinity": {network: (T, T)}} of `affinity.json`. Raises UserError if absent or damaged."""
        if not self.affinities.exists():
            raise expected(f"Run {self.path}", "one with diagnostics=transference, logged once", "no affinity.json")
        found = read_json(self.affinities, {"tasks": [str], "affinity": {str: [[float | None]]}})
        size, shapes = len(found["tasks"]), [[len(matrix), *map(len, matrix)] for matrix in found["affinity"].values()]
        if not shapes or not size or any(set(shape) != {size} for shape in shapes):
            raise expected(f"File {self.affinities}", "one with a matrix of its tasks", shapes)
        return found

    def write_affinities(self, step: int, tasks: Sequence[str], affinities: Mapping[str, Any]) -> None:
        """Write the current affinities {network: (T, T)} to `affinity.json`."""
        write_json(self.affinities, {"step": step, "tasks": list(tasks), "affinity": affinities})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, which marks the run as finished; NaN becomes null."""
        write_json(self.path / "result.json", result)

    def discard(self) -> None:
        """Remove a new run that cannot be trained, with the folders made for it."""
        if self.status == "new":
            shutil.rmtree(self.path)
            _remove_folders(self._created)

    def close(self) -> None:
        """Unlock the folder for other processes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_result(file: Path, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a `result.json` and check its entries. further: the types of other required entries.

    Raises:
        UserError: the file cannot be read, or an entry is missing or has another type.
    """
    found = read_json(file, {"episodes": int, "tasks": {str: {}}, **(further or {})})
    rows = {task: {k: v for k, v in row.items() if k.startswith("mean_")} for task, row in found["tasks"].items()}
    shapes: dict[str, Any] = {
        **dict.fromkeys(("steps_per_task", "steps_total", "updates"), int),
        "mean_over": [str],
        "best": {"step": int},
        "training_seconds": {str: float},
        "delta_mtl": float,
    }
    for name in found.keys() & shapes.keys():
        require(found[name], shapes[name], f"File {file}", name)
    if rows:
        require(found, {"headline": str}, f"File {file}")
        score = f"mean_{found['headline']}"
        require(rows, {str: dict.fromkeys([score, *next(iter(rows.values()))], float | None)}, f"File {file}", "tasks")
        if not all(score in row for row in rows.values()):
            raise expected(f"File {file}", f"one with `{score}` of every task", "none")
        if "best" in found:
            require(found["best"], {score: float}, f"File {file}", "best")
    return found


def _enter(
    path: Path, config: dict[str, Any], ignore: Collection[str], defaults: Mapping[str, Any], steps_key: str
) -> tuple[Status, Callable[[], None] | None]:
    """Under the run's lock, decide its status, and write the files of a new run. Returns the status, and the function
    that `begin` calls."""
    if not (path / "config.yaml").exists():
        write_json(path / "provenance.json", provenance.collect())
        _write_config(path, config)
        return "new", None
    old = read_config(path)
    changed = changes(completed(old, defaults), config, ignore)
    steps = changed.pop(steps_key, None)
    if changed or (steps is not None and not _larger(*steps)):
        changed |= {} if steps is None else {steps_key: steps}
        raise UserError(
            f"Run {path} should keep its configuration: only a larger {steps_key!r} extends it, and another "
            f"experiment=NAME starts another run. Found {listed(changed)}."
        )
    if steps is None and (path / "result.json").exists():
        return "finished", None
    record = read_json(path / "provenance.json", {}) if (path / "provenance.json").exists() else {}
    require(record.get("resumed", []), [object], f"File {path / 'provenance.json'}", "resumed")
    checkpoints.clean(path / "checkpoints")

    def begin() -> None:
        for folder in _FOLDERS:
            (path / folder).mkdir(exist_ok=True)
        resumed = [*record.get("resumed", []), provenance.collect()]
        write_json(path / "provenance.json", {**record, "resumed": resumed})
        _reconfigure(path, old, config, None if steps is None else steps[0])

    return "resume" if steps is None else "extend", begin


def _reconfigure(path: Path, old: dict[str, Any], config: dict[str, Any], extended: Any) -> None:
    """Write the configuration. If the run is extended from `extended` steps, its result moves to `evaluations/` first,
    and moves back if writing fails."""
    result, kept = path / "result.json", path / "evaluations" / f"result_{extended}_steps.json"
    moves = extended is not None and result.exists()
    if moves:
        os.replace(result, kept)
    try:
        if old != config:
            _write_config(path, config)
    except OSError:
        if moves:
            os.replace(kept, result)
        raise


def _larger(old: Any, new: Any) -> bool:
    return all(isinstance(value, int | float) for value in (old, new)) and new > old


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain_yaml(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it will be read back, so that tuples and lists compare equal."""
    return yaml.safe_load(yaml.dump(dict(config), Dumper=_Dumper))


def _write_config(path: Path, config: dict[str, Any]) -> None:
    text = yaml.dump({"format": FORMAT, **config}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    write_atomic(path / "config.yaml", text)


def read_config(path: Path, what: str = "File") -> dict[str, Any]:
    """The configuration in a run's folder, or in a file, which may have been written by hand.

    what: the word before the file's path in messages.

    Raises:
        UserError: there is none, it cannot be read, or it has another format.
    """
    if path.is_dir() and not (path / "config.yaml").exists():
        runs = ", ".join(sorted(config.parent.name for config in path.glob("*/config.yaml")))
        found = f"runs in it: {runs}" if runs else "none"
        raise expected(f"Run folder {path}", "a run, with a config.yaml in it", found)
    file = path / "config.yaml" if path.is_dir() else path
    config = read_yaml(file, {}, what)
    found = config.pop("format", FORMAT)
    if found != FORMAT:
        record = file.with_name("provenance.json")
        known = read_json(record, {"packages": {"mtrl-toolkit": str}})["packages"] if record.exists() else {}
        writer = f"mtrl {known['mtrl-toolkit']}" if known else "another version of mtrl"
        raise expected(f"{what} {file}", f"of format {FORMAT}, or read by {writer}, which wrote it", found)
    return config


def _require_empty(path: Path) -> None:
    """Refuse a folder without a config, unless it is empty or a crash left it before its config was written."""
    names = sorted(name for name in os.listdir(path) if name[0] != ".")
    foreign = [name for name in names if name not in _BEFORE_CONFIG or [*(path / name).glob("*")]]
    if foreign:
        raise expected(f"Run folder {path}", "new, empty or a run with a config.yaml", foreign[0])


def _make_folders(path: Path) -> list[Path]:
    """Create missing folders, and undo this on failure. Returns the new folders, outermost first."""
    if (path / "config.yaml").exists():
        return []
    wanted = [*reversed(path.parents), path, *(path / name for name in _FOLDERS)]
    created = []
    try:
        for folder in wanted:
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                created.append(folder)
    except OSError as error:
        _remove_folders(created)
        raise expected(f"Run folder {path}", "in a place that can be written", error.strerror) from error
    return created


def _remove_folders(created: list[Path]) -> None:
    for folder in reversed(created):
        with contextlib.suppress(OSError):  # removed already, or another run uses it by now
            folder.rmdir()


def _take_lock(path: Path, created: list[Path]) -> int:
    """An open descriptor that holds the run's lock. The system frees the lock when the process ends for any reason."""
    try:
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        _remove_folders(created)
        raise expected(f"Run folder {path}", "writable", error.strerror) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(lock, 20).decode(errors="replace") or "unknown"
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise expected(f"Run folder {path}", "used by one process at a time", f"process {owner}") from error
        raise expected(f"Run folder {path}", "on a file system with locks", error.strerror) from error
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
