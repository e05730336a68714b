"""mtrl bench growth: how an update's time and memory grow with the number of tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from typing import Any

from mtrl.bench.report import machine
from mtrl.core.errors import expected
from mtrl.monitoring.progress import counted

TASKS = (1, 5, 10, 25, 50, 100)
METHODS = ("none", "pcgrad", "auto_lambda")
_CODE = """
import json, sys
from statistics import median
from mtrl.bench import update
from mtrl.bench.report import interleaved
from mtrl.core.memory import keep_freed_memory, peak_bytes
keep_freed_memory()
call = update.full_update(int(sys.argv[1]), sys.argv[2])
seconds = interleaved({"update": call}, int(sys.argv[3]), warmup=3)["update"]
print(json.dumps([1e3 * median(seconds), peak_bytes() / 1e6]))
"""


def measure(quick: bool = False) -> dict[str, Any]:
    """Milliseconds of a full SAC update, and the peak memory (MB) of the process that makes it.

    Each pair of a number of tasks and a method is measured in a process of its own. Sizes are those of
    `mtrl bench update`; `none` is joint training. `ms_per_task` shows whether a task costs less when there are many.
    """
    rows = []
    for tasks, method in counted([*product(TASKS[:2] if quick else TASKS, METHODS)], "processes"):
        arguments = [sys.executable, "-c", _CODE, str(tasks), method, "3" if quick else "15"]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            found = f"exit code {done.returncode} (errors, if any, are above)"
            raise expected(f"The process that measures {method} with {tasks} tasks", "able to finish", found)
        ms, peak = json.loads(done.stdout)
        rows.append({"tasks": tasks, "update": method, "ms": ms, "ms_per_task": ms / tasks, "peak_mb": peak})
    return {"bench": "growth", "machine": machine(), "rows": rows}
