"""Two processes that learn together (gloo), for the tests of data-parallel updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

COUNT = 2


def together(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What a function of a module returns in each of two processes, which it calls with their group and arguments."""
    spawn(_run, (function, str(folder), arguments), nprocs=COUNT)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(COUNT)]


def _run(rank: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=COUNT)
    try:
        torch.save(function(dist.group.WORLD, *arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
