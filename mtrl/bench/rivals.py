"""mtrl bench rivals: compares the toolkit's environments and updates with those of other packages in one run.

`make bench-rivals` also writes the tables of the result into README.md and docs/speed.md (see `mtrl.bench.pages`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtrl.bench import envs, update
from mtrl.core.memory import return_freed_memory
from mtrl.monitoring import provenance

UPDATES = {
    "plain": "plain | joint training in ordinary layers, written apart from the toolkit",
    "joint": "joint | joint training",
    "pcgrad": "**PCGrad** | ours",
    "joint_compiled": "joint, compiled | `agent.execution=compiled`",
    "pcgrad_compiled": "**PCGrad, compiled** | ours",
    "products": "products alone | the matrix products of the joint update, nothing else",
    "jax_joint": "joint, JAX | the JAX baselines (metaworld-algorithms), compiled",
    "jax_pcgrad": "PCGrad, JAX | likewise",
    "naive_pcgrad": "PCGrad, T backward passes | as public code does it, with projections of whole vectors",
    "torchjd_pcgrad": "PCGrad, torchjd | by torchjd",
}
ENGINES = {
    "ours": "ours",
    "bound": "bare physics",
    "envpool": "EnvPool, in turn",
    "envpool_overlapped": "EnvPool, overlapped",
    "package_sync": "`metaworld`, sync",
    "package_async": "`metaworld`, async",
}
SUITES = {"mt1": "one task", "mt10": "MT10", "mt50": "MT50"}


def measure(
    quick: bool = False,
    repetitions: int | None = None,
    jax_baselines: Path | None = None,
    jax_python: str | None = None,
) -> dict[str, Any]:
    """Rows of `mtrl bench envs`, then of `mtrl bench update --compiled`, all in one run.

    `quick` measures only MT10, and no compiled updates.

    Raises:
        UserError: as in `mtrl.bench.update.measure`.
    """
    suites = ("mt10",) if quick else tuple(update.SUITES)
    jax: dict[str, Any] = {"jax_baselines": jax_baselines, "jax_python": jax_python}
    stepping = envs.measure(quick)
    return_freed_memory()  # the updates of the JAX baselines take gigabytes
    updates = update.measure(quick, suites=suites, repetitions=repetitions, compiled=not quick, **jax)
    packages = provenance.versions((*provenance.DISTRIBUTIONS, "envpool"))
    return {**updates, "bench": "rivals", "packages": packages, "rows": stepping["rows"] + updates["rows"]}


def updates_table(result: dict[str, Any]) -> list[list[str]]:
    """A table with the milliseconds of each update, with a column for each suite."""
    ms = _values(result, "update", "ms")
    suites = list(dict.fromkeys(suite for suite, *_ in ms))
    rows = [
        [text, *(_number(ms.get((suite, None, name)), " ms") for suite in suites)]
        for name, text in UPDATES.items()
        if any((suite, None, name) in ms for suite in suites)
    ]
    return [["update | what it is", *(SUITES[suite] for suite in suites)], *rows]


def environments_table(result: dict[str, Any]) -> list[list[str]]:
    """A table with the steps per second of each engine, with a row for each suite and number of copies."""
    speeds = _values(result, "engine", "steps_per_second")
    engines = {name: text for name, text in ENGINES.items() if any(name == engine for *_, engine in speeds)}
    places = dict.fromkeys((suite, copies) for suite, copies, engine in speeds if engine in engines)
    rows = []
    for suite, copies in places:
        label = f"{SUITES[suite]}, {copies} {'copy' if copies == 1 else 'copies'}"
        rows.append([label, *(_number(speeds.get((suite, copies, name))) for name in engines)])
    return [["", *engines.values()], *rows]


def pictures_table(result: dict[str, Any]) -> list[list[str]]:
    """A table with the steps per second when each state is rendered, with a row for each suite."""
    speeds = _values(result, "engine", "steps_per_second")
    suites = dict.fromkeys(suite for suite, _, engine in speeds if engine == "pixels")
    rows = [[SUITES[s], *(_number(speeds.get((s, 1, name))) for name in ("pixels", "package_pixels"))] for s in suites]
    return [["", "ours", "`metaworld`"], *rows]


def summary_table(result: dict[str, Any]) -> list[list[str]]:
    """The table in the README: PCGrad updates, and environments with four copies of each task."""
    ms, speeds = _values(result, "update", "ms"), _values(result, "engine", "steps_per_second")
    machine = result["machine"]
    table = [[f"{machine['cores']} cores, {machine['processor']}", "`mtrl`", "rivals"]]
    for suite in dict.fromkeys(suite for suite, *_ in ms):
        now = {name: value for (where, _, name), value in ms.items() if where == suite}
        ours = _named(now, {"pcgrad": "", "joint": "joint training", "pcgrad_compiled": "compiled"}, " ms")
        theirs = {"jax_pcgrad": "JAX baselines", "jax_joint": "their joint training"}
        theirs |= {"torchjd_pcgrad": "torchjd", "naive_pcgrad": "public PCGrad code"}
        table.append([f"PCGrad update, {SUITES[suite]}", ours, _named(now, theirs, " ms")])
    for suite in dict.fromkeys(suite for suite, copies, _ in speeds if copies == 4):
        now = {name: value for (where, copies, name), value in speeds.items() if (where, copies) == (suite, 4)}
        for better in ("envpool", "package"):
            both = [value for name, value in now.items() if name.startswith(better)]
            now |= {better: max(both)} if both else {}
        theirs = {"envpool": "EnvPool", "package": "`metaworld`", "bound": "bare MuJoCo physics"}
        ours = _number(now["ours"], " steps/s")
        table.append([f"Environments of {SUITES[suite]}, 4 copies", ours, _named(now, theirs, " steps/s")])
    return table


TABLES: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "summary": summary_table,
    "updates": updates_table,
    "environments": environments_table,
    "pictures": pictures_table,
}


def _values(result: dict[str, Any], what: str, value: str) -> dict[tuple[str, int | None, str], float]:
    """{(suite, copies, row[what]): row[value]} for the rows that have the key `what`."""
    return {(row["suite"], row.get("copies"), row[what]): row[value] for row in result["rows"] if what in row}


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.0f}{unit}"


def _named(values: dict[str, float], names: dict[str, str], unit: str) -> str:
    """The values whose names are in `names`, as text: `torchjd 535 ms, public PCGrad code 593 ms`."""
    known = {text: values[name] for name, text in names.items() if name in values}
    return ", ".join(f"{text} {_number(value, unit)}".strip() for text, value in known.items())
