"""Copies the numbers in `metrics.jsonl` to Weights & Biases, unless the option `wandb` is off.

Project, entity and account come from environment variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY). A resumed run
continues the same run of Weights & Biases, whose id is kept in the run's folder. If Weights & Biases fails, training
continues without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
from collections.abc import Mapping
from typing import Any

from mtrl.core.errors import missing
from mtrl.monitoring.progress import say
from mtrl.monitoring.run import RunFolder


class Mirror:
    """Writes to one run of Weights & Biases. After a failure, it prints a line and writes no more.

    Args:
        mode: off (which writes nothing), offline or online.
        folder: the run's folder.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, mode: str, folder: RunFolder) -> None:
        self._run: Any = None
        if mode == "off":
            return
        if importlib.util.find_spec("wandb") is None:
            raise missing(f"Option `wandb={mode}`", "wandb", "wandb")
        try:
            self._run = _started(mode, folder)
            where = f"offline; `wandb sync {folder.path}/wandb/offline-*` uploads it"
            say(f"Weights & Biases: {self._run.url if mode == 'online' else where}")
        except Exception as error:
            self._give_up(error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write `{name: value}`. Weights & Biases drops values of steps before its latest one."""
        if self._run is not None:
            try:
                self._run.log(dict(values), step=step)
            except Exception as error:
                self._give_up(error)

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            try:
                run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"mtrl: the run continues without Weights & Biases, which failed ({reason}).")


def _started(mode: str, folder: RunFolder) -> Any:
    wandb: Any = importlib.import_module("wandb")
    named = folder.path / "wandb" / "mtrl_run_id"
    named.parent.mkdir(exist_ok=True)
    if not named.exists():
        named.write_text(secrets.token_hex(8), encoding="utf-8")
    benchmark, experiment, seed = folder.path.parts[-3:]
    return wandb.init(
        mode=mode,
        project=os.environ.get("WANDB_PROJECT", "mtrl"),
        id=named.read_text(encoding="utf-8").strip(),
        resume="allow" if mode == "online" else None,
        dir=str(folder.path),
        name=f"{benchmark}/{experiment}/{seed}",
        group=f"{benchmark}/{experiment}",
        config=folder.config,
        settings=wandb.Settings(silent=True, console="off", save_code=False),
    )
