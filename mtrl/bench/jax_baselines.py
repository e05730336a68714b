"""Runs updates of Meta-World's JAX baselines, if there is a checkout of them.

The baselines are metaworld-algorithms, https://github.com/rainx0r/metaworld-algorithms, which compiles whole updates.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mtrl.bench import jax_worker
from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.monitoring.provenance import git

_NEEDED = "a Python 3.12 or later with jax, flax, distrax, optax, orbax-checkpoint, jaxtyping, gymnasium and wandb"
Updates = dict[str, Callable[[], Any]]


@contextmanager
def jax_updates(checkout: Path | None, python: str, **sizes: int) -> Iterator[tuple[Updates, dict[str, Any]]]:
    """Functions for the baselines' joint and PCGrad updates, and facts for the result: commit and package versions.

    The updates run on all cores, in a separate process that ends with the `with` block.

    Args:
        checkout: the folder that contains `metaworld_algorithms`; without one there are no updates.
        python: the interpreter that has JAX.
        sizes: tasks, batch (of each task), width, depth, observation and action.

    Raises:
        UserError: the folder is no checkout, or the interpreter cannot run the baselines.
    """
    if checkout is None:
        yield {}, {}
        return
    found = (checkout / "metaworld_algorithms").is_dir()
    check(found, "--jax-baselines", "a checkout of metaworld-algorithms", str(checkout))
    # -I, since this interpreter should see neither our PYTHONPATH nor the modules beside the worker.
    command = [python, "-I", jax_worker.__file__, str(checkout.resolve()), json.dumps(sizes)]
    with tempfile.TemporaryFile("w+") as errors, _started(command, stderr=errors) as process:

        def answer(question: str | None = None) -> str:
            if question is not None:
                print(question, file=process.stdin, flush=True)
            line = process.stdout.readline() if process.stdout else ""
            if line:
                return line
            process.wait()
            errors.seek(0)
            raise expected("Option `--jax-python`", _NEEDED, (errors.read().strip().splitlines() or ["no answer"])[-1])

        facts = {"commit": _commit(checkout), **json.loads(answer())}
        yield {f"jax_{method}": partial(answer, method) for method in jax_worker.METHODS}, {"jax": facts}


def _started(command: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "WANDB_MODE": "disabled"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
    try:
        return subprocess.Popen(command, text=True, env=environment, **pipes)
    except OSError as error:
        raise expected("Option `--jax-python`", _NEEDED, command[0]) from error


def _commit(checkout: Path) -> str | None:
    """None if the checkout is no repository, such as an unpacked archive inside another repository, or git fails."""
    return git(checkout, "rev-parse", "HEAD") if (checkout / ".git").exists() else None
