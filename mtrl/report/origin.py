"""Describes runs: their protocol, how their configurations differ, where they come from, and how to repeat them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl.core.records import require
from mtrl.experiment.runs import Run, brief, protocol

_OF_A_RUN = {"seed", "runs", "experiment", "video", "device", "threads"}
"""Options that may differ between runs of the same method."""
_PARTS = ("benchmark", "network", "weighting", "surgery", "critic_weighting", "critic_surgery", "agent", "training")
_HIDDEN = {"headline", "reported"}
"""Facts of the common protocol that the page shows elsewhere. Nested facts, such as versions, are left out too."""
_MACHINE = ("commit", "python", "platform", "cpu", "cores", "gpu", "torch_threads")

Facts = dict[str, Any]


def flat(facts: Mapping[str, Any], prefix: str = "") -> Facts:
    """Nested facts as one mapping with dotted names."""
    found: Facts = {}
    for key, value in facts.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def split(facts: Sequence[Mapping[str, Any]]) -> tuple[Facts, dict[str, list[Any]]]:
    """The facts that all have in common, and for the others {name: the values of all}, with a dash for missing ones."""
    names = dict.fromkeys(name for each in facts for name in each)
    columns = {name: [each.get(name, "–") for each in facts] for name in names}
    same = {name: values[0] for name, values in columns.items() if all(value == values[0] for value in values)}
    return same, {name: values for name, values in columns.items() if name not in same}


def benchmark(run: Run) -> str:
    """The name of a run's benchmark. Raises UserError if its configuration has none."""
    require(run.folder.config, {"benchmark": {"kind": str}}, f"File {run.folder.path / 'config.yaml'}")
    return str(run.folder.config["benchmark"]["kind"])


def of_protocol(runs: Sequence[Run]) -> Facts:
    """The evaluation protocol that finished runs have in common, and the parts in which they differ."""
    facts = [flat(protocol(run.result)) for run in runs if run.result is not None]
    same, differing = split(facts)
    shown = {name: value for name, value in same.items() if value is not None and name not in _HIDDEN}
    return {
        "same": {name.replace("_", " "): value for name, value in shown.items() if "." not in name},
        "differing": differing,
    }


def of_configurations(groups: Mapping[str, Sequence[Run]]) -> Facts:
    """The parts of the first method, and the options in which runs differ, with the values of each method."""
    flats = {label: [_options(run) for run in runs] for label, runs in groups.items()}
    _, differing = split([options for found in flats.values() for options in found])
    values = {
        name: [
            " | ".join(dict.fromkeys(brief(options.get(name, "–")) for options in found)) for found in flats.values()
        ]
        for name in sorted(differing, key=lambda name: (name.partition(".")[0], not name.endswith(".kind"), name))
    }
    first = next(iter(groups.values()))[0].folder.config
    parts = {name: first.get(name) for name in _PARTS}
    return {
        "parts": {name: part.get("kind") for name, part in parts.items() if isinstance(part, Mapping)},
        "differing": values,
    }


def _options(run: Run) -> Facts:
    return {name: value for name, value in flat(run.folder.config).items() if name not in _OF_A_RUN}


def of_machines(named: Mapping[str, Run]) -> Facts:
    """Versions and machines: those that all runs have in common, and a row of the others for each run."""
    same, differing = split([_origin(run) for run in named.values()])
    rows = {name: [values[number] for values in differing.values()] for number, name in enumerate(named)}
    return {"same": {k: v for k, v in same.items() if v is not None}, "heads": list(differing), "rows": rows}


def _origin(run: Run) -> Facts:
    found = run.provenance
    git = found.get("git") or {}
    commit = git.get("commit") and f"{git['commit'][:12]}{', with changes' if git.get('dirty') else ''}"
    started = (found.get("started") or "–")[:16].replace("T", " ")
    facts = {"started": started, "times resumed": len(found.get("resumed", []))}
    facts |= {name.replace("_", " "): value for name, value in {**found, "commit": commit}.items() if name in _MACHINE}
    return facts | (found.get("packages") or {})


def commands(named: Mapping[str, Run], target: Path) -> list[tuple[str, dict[str, list[str]]]]:
    """Pairs of a commit and {command: the names of the runs that it made}.

    The commit is "" if it is unknown or the code had uncommitted changes. A run whose command is unknown gets one that
    trains from its `config.yaml`.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, run in named.items():
        records = [run.provenance, *run.provenance.get("resumed", [])]
        given = [(_commit(record), shlex.join(record["command"])) for record in records if record.get("command")]
        config = os.path.relpath(run.path / "config.yaml", target.resolve().parent)
        for commit, command in dict.fromkeys(given) or [("", shlex.join(["mtrl", "train", "--config", config]))]:
            found.setdefault(commit, {}).setdefault(command, []).append(" ".join(name.split()))
    return list(found.items())


def _commit(record: Mapping[str, Any]) -> str:
    """The commit of a record; "" if it is unknown or the code had uncommitted changes."""
    git = record.get("git") or {}
    commit = str(git.get("commit"))
    return commit if re.fullmatch("[0-9a-f]{7,64}", commit) and not git.get("dirty") else ""
