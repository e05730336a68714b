"""Writes metrics to `metrics.jsonl`, which all other parts read, and to TensorBoard, for viewing."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mtrl.core.errors import expected, reading
from mtrl.monitoring import plots
from mtrl.monitoring.board import Board
from mtrl.monitoring.files import plain, write_atomic
from mtrl.monitoring.mirror import Mirror
from mtrl.monitoring.run import RunFolder

Row = dict[str, Any]
_LARGEST = 1e300
"""Larger magnitudes in a file are refused, since they cannot be measurements."""
_MATRIX_DIGITS = 4
"""Significant digits of a matrix's entries in the file. Affinities may be small."""


class MetricLog:
    """Appends one row per `write` to a run's metrics.

    Args:
        resume_step: the step of the checkpoint from which training continues. Later rows, written by a process that
            then died, are hidden in TensorBoard and dropped when the next row is written. None drops all rows.
        rows: the number of rows when that checkpoint was written.
        options: the run's options by dotted name, for TensorBoard's table of experiments.
        mirror: gets the scalar metrics, too.
        image_interval: the least seconds between two images of the same matrix, since drawing one takes 0.1 s (T=10) to
            0.4 s (T=50).
    """

    def __init__(
        self,
        run_folder: RunFolder,
        resume_step: int | None = None,
        rows: int | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        mirror: Mirror | None = None,
        image_interval: float = 60.0,
    ) -> None:
        self._folder, self._options, self._image_interval = run_folder, options or {}, image_interval
        self._mirror, self._drawn = mirror, dict[str, float]()
        self._open(-1 if resume_step is None else resume_step, rows)

    def _open(self, last: int, rows: int | None) -> None:
        self._kept = _rows_until(self._folder.metrics, last, rows)
        self.rows = len(self._kept)
        group = "/".join(self._folder.path.parts[-3:-1])
        self._board = Board(self._folder.tensorboard, last + 1, self._options, group)
        self._file: TextIO | None = None

    def go_back(self, step: int, rows: int | None = None) -> None:
        """Drop the rows after `step`, and all but the first `rows`, since training continues from there."""
        self._close()
        self._open(step, rows)

    def write(self, step: int, metrics: Mapping[str, Any], tasks: Sequence[str] = ()) -> None:
        """Write one row; NaN and infinities become null in the file.

        Args:
            metrics: `{name: number or array}`. A vector (T,) is written as `name/<task>`. A matrix (T, T) is rounded to
                4 significant digits in the file, and from time to time drawn as an image in TensorBoard. Any other
                array is split along its first axis into `name/<index>`.
            tasks: the names of the T tasks.
        """
        values, arrays = dict[str, float](), dict[str, NDArray[np.float64]]()
        for name, metric in metrics.items():
            for part, array in _parts(name, np.asarray(metric, dtype=np.float64), tasks):
                if array.ndim:
                    arrays[part] = array
                else:
                    values[part] = float(array)
        rounded = {name: _rounded(array) for name, array in arrays.items()}
        row = {"step": int(step), "time": round(time.time(), 3), **values, **rounded}
        if self._file is None:  # rows are dropped only now: a run that is refused at its start keeps them
            write_atomic(self._folder.metrics, "".join(self._kept))
            self._file = open(self._folder.metrics, "a", encoding="utf-8")  # noqa: SIM115
            self._kept = []
        self._file.write(json.dumps(plain(row), allow_nan=False) + "\n")
        self._file.flush()
        self.rows += 1
        self._board.scalars(step, values, tasks)
        if self._mirror is not None:
            self._mirror.scalars(step, values)
        for name, array in arrays.items():
            if time.monotonic() - self._drawn.get(name, -math.inf) >= self._image_interval:
                self._board.image(step, name, plots.matrix_image(array, tasks, name))
                self._drawn[name] = time.monotonic()

    def pictures(self, step: int, make: Callable[[], Mapping[str, NDArray[np.uint8]]]) -> None:
        """Show `{name: (H, W, 3)}` in TensorBoard, drawn by `make` at most every `image_interval` seconds."""
        if time.monotonic() - self._drawn.get("pictures", -math.inf) >= self._image_interval:
            for name, picture in make().items():
                self._board.image(step, name, picture)
            self._drawn["pictures"] = time.monotonic()

    def close(self) -> None:
        self._close()
        if self._mirror is not None:
            self._mirror.close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._board.close()

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[Row]:
    """All rows of a `metrics.jsonl`, in order. A last line cut off by a crash is left out.

    Raises:
        UserError: there is no such file, or another line is not a row.
    """
    if not path.exists():
        raise expected(f"Metrics {path}", "an existing file", "none")
    return [row for _, row in _lines(path)]


def parse_row(line: str, place: str) -> Row:
    """The row of one line. place: where the line is, for the message. Raises UserError if it is not a row."""
    row: Row = {}
    try:
        row = json.loads(line)
        sound = type(row["step"]) is int and 0 <= row["step"] < 2**63 and all(map(_is_metric, row.values()))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        sound = False
    if not sound:
        what = "a JSON object with a step, in which all else is numbers, null or matrices of them"
        raise expected(place, what, line[:40])
    return row


def _parts(name: str, array: NDArray[np.float64], tasks: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The entries that are written for a metric: numbers, and matrices of the tasks."""
    if array.ndim == 0 or array.shape == (len(tasks), len(tasks)):
        yield name, array
        return
    labels = tasks if array.shape == (len(tasks),) else range(len(array))
    for label, part in zip(labels, array, strict=True):
        yield from _parts(f"{name}/{label}", part, tasks)


def _rounded(array: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: float(f"{value:.{_MATRIX_DIGITS}g}"), otypes=[float])(array)


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    with reading(path, "a readable file of rows", "Metrics"), open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            yield line, parse_row(line, f"Line {number} of {path}")


def _is_metric(value: Any) -> bool:
    """Whether a value is a number or null, or a matrix of them."""
    if isinstance(value, list):
        return not value or (len({*map(len, value)}) == 1 and all(map(_is_number, itertools.chain(*value))))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < _LARGEST)


def _rows_until(path: Path, last: int, rows: int | None) -> list[str]:
    """The lines of the rows up to a step, at most `rows` of them, without a last line that was cut off."""
    return [line for line, row in _lines(path) if row["step"] <= last][:rows] if path.exists() else []
