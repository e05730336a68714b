"""Where a result comes from: command, code, versions and machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mtrl.core.cores import available_cores

DISTRIBUTIONS = ("mtrl-toolkit", "torch", "numpy", "gymnasium", "metaworld", "mujoco", "torchjd", "hydra-core")
_PATIENCE = 60
"""Seconds to wait for git. After that, the commit counts as unknown."""


def collect() -> dict[str, Any]:
    """Describe this process in JSON's types. Facts that are not known are null or left out."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "git": _git(Path(__file__)),
        "packages": versions(DISTRIBUTIONS),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": available_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo if it is there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _command(words: Sequence[str]) -> list[str]:
    """The command as a user would type it: mtrl's path is replaced by its name."""
    ours = Path(words[0]).name == "mtrl" or Path(words[0]).parts[-2:] == ("mtrl", "cli.py")
    return ["mtrl", *words[1:]] if ours else list(words)


def _git(source: Path) -> dict[str, Any] | None:
    """The commit of the package, and whether it has uncommitted changes; None if git fails or does not track `source`.

    source: a file of the package, as `<package>/<part>/<file>`.
    """
    if git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    # Only the package counts: results written into the repository do not change the code.
    changed = git(source.parent, "status", "--porcelain", "--", str(source.parents[1]))
    commit = git(source.parent, "rev-parse", "HEAD")
    return None if changed is None or commit is None else {"commit": commit, "dirty": bool(changed)}


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints in this folder, without the space around it; None if git fails, or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
