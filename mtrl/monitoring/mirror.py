"""Weights & Biases gets a copy of the numbers in `metrics.jsonl`, where the option `wandb` asks for it.

Project, entity and account are those of its own variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY). A run that
resumes continues the same run there, whose name is kept in the run's folder. A failure there never changes or stops a
run.
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
    """Writes to one run of Weights & Biases until something there fails; the rest of the run is then without it.

    Args:
        mode: off (which writes nothing), offline or online.
        folder: the run's.

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
        """Write `{name: value}`. Weights & Biases drops numbers of steps before the last one that it has."""
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
        say(f"mtrl: no more is written to Weights & Biases ({reason}); the run goes on.")


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
