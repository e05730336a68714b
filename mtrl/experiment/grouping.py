"""Finds the best groups of a run's tasks from the measured affinities, and writes a configuration for each group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtrl import configs
from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.experiment.config import restore
from mtrl.gradients.base import DiagnosticConfig, declared, primary_tasks
from mtrl.gradients.grouping import Grouping, best_groups
from mtrl.gradients.surgery import transference
from mtrl.monitoring.files import write_atomic
from mtrl.monitoring.run import RunFolder

METHODS = ("weighting", "surgery", "critic_weighting", "critic_surgery")
"""The options whose methods may have primary tasks."""


@dataclass(frozen=True)
class GroupedRun:
    """The best groups of a run's tasks."""

    tasks: list[str]
    """The names of the run's tasks, (T,)."""
    grouping: Grouping
    files: list[Path]
    """The configuration file of each group."""

    def facts(self) -> dict[str, Any]:
        """In JSON types: the groups; each task's serving group and score; the sum of the scores, and whether it is
        proven to be the largest; and the files."""
        groups = [[self.tasks[task] for task in group] for group in self.grouping.groups]
        serving = {
            task: {"group": group + 1, "affinity": score}
            for task, group, score in zip(self.tasks, self.grouping.serving, self.grouping.scores, strict=True)
        }
        proven = {"sum": self.grouping.total, "optimal": self.grouping.optimal}
        return {"groups": groups, "tasks": serving, **proven, "files": list(map(str, self.files))}


def group_run(path: Path | str, groups: int, network: str | None = None, output: Path | None = None) -> GroupedRun:
    """Find the best groups of a run's tasks, and write a configuration for `mtrl train --config` for each.

    Args:
        path: the run's folder.
        groups: the largest number of groups, 1 to T.
        network: whose affinities to use: critic, actor or all (an agent's only network); by default the critic's if
            they were measured, otherwise the first that were.
        output: the folder of the configurations; `groups/` in the run if not given.

    Raises:
        UserError: the run has no such affinities, `groups` is out of range, the benchmark's tasks cannot be chosen, a
            group has none of the primary tasks, or the folder cannot be written.
    """
    folder = RunFolder.load(path)
    found = folder.read_affinities()
    names = list(found["affinity"])
    network = network or ("critic" if "critic" in names else names[0])
    if network not in names:
        raise expected("--network", f"one of {', '.join(names)}, whose affinities were measured", network)
    grouping = best_groups(found["affinity"][network], groups)
    members = [[found["tasks"][task] for task in group] for group in grouping.groups]
    names = [f"group-{n + 1}-of-{len(members)}" for n in range(len(members))]
    plans = [_configuration(folder, found["tasks"], *group) for group in zip(members, names, strict=True)]
    target = output or folder.path / "groups"
    files = [target / f"{plan['experiment']}.yaml" for plan in plans]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file, plan in zip(files, plans, strict=True):
            write_atomic(file, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise expected(f"Folder {target}", "in a place that can be written", error.strerror) from error
    return GroupedRun(found["tasks"], grouping, files)


def _configuration(folder: RunFolder, all_tasks: list[str], tasks: list[str], suffix: str) -> dict[str, Any]:
    """The run's configuration with only these tasks, a name of its own, and no diagnostics that measure affinities.

    Of the primary tasks and of the combinations of tasks among which `surgery=transference` chooses, those within the
    group stay.

    Raises:
        UserError: the run has primary tasks or such combinations, and none is in the group.
    """
    config = restore(folder.config)
    benchmark = configs.plain(config.benchmark.restricted(tasks))
    experiment = f"{folder.path.resolve().parent.name}-{suffix}"
    watching = {kind: part for kind, part in (config.diagnostics or {}).items() if not _measures_affinity(part)}
    diagnostics = {kind: configs.plain(part) for kind, part in watching.items()} or None
    methods = {name: dict(folder.config.get(name) or {}) for name in METHODS}
    for name, options in methods.items():
        if chosen := options.get("primary"):
            primary = primary_tasks(f"{name}.primary", chosen, all_tasks, len(all_tasks)).tolist()
            names = [task for task, is_primary in zip(all_tasks, primary, strict=True) if is_primary]
            options["primary"] = [task for task in names if task in tasks]
            check(len(options["primary"]) > 0, f"{name}.primary", f"set to include a task of {tasks}", names)
        if candidates := options.get("candidates"):
            options["candidates"] = transference.restricted(candidates, [all_tasks.index(task) for task in tasks])
            check(len(options["candidates"]) > 0, f"{name}.candidates", f"set to include one for {tasks}", candidates)
    changed = {name: options for name, options in methods.items() if options}
    return {**folder.config, **changed, "benchmark": benchmark, "diagnostics": diagnostics, "experiment": experiment}


def _measures_affinity(diagnostic: Any) -> bool:
    return declared(diagnostic, DiagnosticConfig).affinity is not None
