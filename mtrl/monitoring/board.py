"""TensorBoard's view of a run, and `mtrl watch`, which opens it. Its tabs:

| tab | what it shows |
|---|---|
| Custom Scalars | each metric of all tasks, such as `evaluation/success`, as a chart with a line for each task |
| Images | matrices of the tasks (cosines, conflicts, affinities), and what the training loop draws (e.g. predictions) |
| HParams | a row for each experiment, with its options and the means over its seeds |
| Scalars | every number of `metrics.jsonl`, by its name in that file |
"""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.errors import UserError, expected
from mtrl.monitoring.statistics import is_share

_FIRST = ("evaluation", "train")
"""The categories of charts that come before all others."""


class Board:
    """Writes the event files of one run.

    Args:
        first_step: events from this step on that an earlier process wrote are hidden.
        options: the run's options by dotted name, without its seed; no row in HParams if empty.
        group: the experiment's name. Its seeds are one row in HParams.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int, options: Mapping[str, Any], group: str) -> None:
        writer = _import("torch.utils.tensorboard.writer").SummaryWriter
        self._writer = writer(str(folder), purge_step=first_step, flush_secs=20)
        self._names, self._charts = set[str](), set[str]()
        if options:
            summary = _import("tensorboard.plugins.hparams.summary_v2")
            values = {name: _plain(value) for name, value in options.items() if value is not None}
            self._writer.file_writer.add_summary(summary.hparams_pb(values, trial_id=group))

    def scalars(self, step: int, values: Mapping[str, float], tasks: Sequence[str] = ()) -> None:
        """Write `{name: value}`. The values `<metric>/<task>` of all `tasks` share a chart."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        new = values.keys() - self._names
        self._names |= new
        ending = f"/{tasks[0]}" if tasks else ""
        charts = {name.removesuffix(ending) for name in new if ending and name.endswith(ending)} - self._charts
        if charts:
            self._charts |= charts
            self._writer.add_custom_scalars(_layout(self._charts))

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Write a picture (H, W, 3)."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Watch:
    """TensorBoard with the runs in a folder. Its web page is at `address`.

    Args:
        port: the port that it listens on; None for the first free one.

    Raises:
        UserError: TensorBoard is not installed, it cannot listen at this address, or the folder has no runs.
    """

    def __init__(self, folder: Path, host: str = "localhost", port: int | None = None) -> None:
        check(port is None or 0 <= port < 2**16, "--port", "0 to 65535", port)
        if next(folder.rglob("events.out.tfevents.*"), None) is None:
            found = "none" if folder.is_dir() else "no such folder"
            raise expected(f"Folder {folder}", "a run, or one with runs in it (mtrl train writes to runs/)", found)
        program, default = _import("tensorboard.program"), _import("tensorboard.default")
        board = program.TensorBoard(default.get_plugins())
        board.configure(logdir=str(folder), host=host, **({} if port is None else {"port": port}))
        try:
            self.address: str = board.launch()
        except program.TensorBoardServerException as error:
            raise UserError(f"TensorBoard should be able to start. Found: {error}.") from error

    def wait(self) -> None:
        """Return when ctrl-C is pressed."""
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorboard":
            raise
        raise expected("TensorBoard", "installed (pip install tensorboard)", f"no {error.name}") from error


def _plain(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _layout(charts: set[str]) -> dict[str, dict[str, list[Any]]]:
    """{category: {chart: [kind, patterns of names]}}. In a category, shares such as success come first."""
    layout: dict[str, dict[str, list[Any]]] = {category: {} for category in _FIRST}
    for chart in sorted(charts, key=lambda chart: (not is_share(chart), chart)):
        layout.setdefault(chart.partition("/")[0], {})[chart] = ["Multiline", [f"^{re.escape(chart)}/"]]
    return {category: found for category, found in layout.items() if found}
