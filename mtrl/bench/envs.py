"""mtrl bench envs: environment steps per second, compared with EnvPool, `metaworld` and the physics alone."""

from __future__ import annotations

from typing import Any

from mtrl.bench.report import machine


def measure(quick: bool = False) -> dict[str, Any]:
    """Rows of `mtrl.envs.metaworld.bench` for one task, MT10 and MT50 with 1, 4 and 16 copies of each task.

    quick: only MT10, with 1 and 4 copies.
    """
    from mtrl.envs.metaworld.bench import bench

    rows = bench(("mt10",), (1, 4), 1.0) if quick else bench()
    return {"bench": "envs", "machine": machine(), "rows": rows}
