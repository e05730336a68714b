"""What several benches share: interleaved timing, facts about the machine, and a table of the rows."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from mtrl.monitoring import provenance
from mtrl.monitoring.progress import counted

_LIMITS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""Environment variables that limit the CPU instructions of PyTorch, MKL and oneDNN."""


def interleaved(calls: dict[str, Callable[[], Any]], repetitions: int, warmup: int = 5) -> dict[str, list[float]]:
    """Call all functions in turn (A B C A B C ...), so that the machine's noise affects all of them equally.

    Returns the seconds of each of the `repetitions` calls by name. The first `warmup` rounds are not in them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in counted(range(warmup + repetitions), "rounds"):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repetition >= warmup:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Wrap a function so that each call appends its duration to `seconds`."""

    def measured(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    return measured


def machine() -> dict[str, Any]:
    """The hardware and software facts that are saved with a measurement."""
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {}
    return gpu | {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": provenance.cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{name: os.environ[name] for name in _LIMITS if name in os.environ},
        "system": platform.platform(),
    }


def table(result: dict[str, Any]) -> str:
    """The rows of a measurement as aligned text."""
    rows = [{k: _cell(v) for k, v in row.items()} for row in result["rows"]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    widths = [max(len(c), *(len(row.get(c, "")) for row in rows)) for c in columns]
    lines = [columns, *[[row.get(c, "") for c in columns] for row in rows]]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return " to ".join(map(_cell, value)) if isinstance(value, list) else str(value)
