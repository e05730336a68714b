"""The command line: mtrl train | study | evaluate | demos | list | bench | data | plot | report | compare | group.

Bad input ends in one line that says what was expected and what was found, and exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl.arguments import parse
from mtrl.core.errors import UserError, expected
from mtrl.core.output import lasting_output
from mtrl.core.registry import find, import_by_name

BAD_INPUT, INTERRUPTED = 2, 130
LONGEST = 4000
"""Letters of a message: an option's name may have been thousands."""
# Read by OpenMP when torch is loaded. Threads that wait by spinning take the cores from the environments' threads, and
# on a machine that does anything else an update takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        with lasting_output():
            return _code(arguments)
    except OSError as error:
        return _failed(error)


def _code(arguments: Sequence[str] | None) -> int:
    try:
        options = parse(arguments)
        import_by_name(getattr(options, "imports", []))
        COMMANDS[options.command](options)
    except UserError as error:
        message = " ".join(str(error).split())
        longest = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        print(f"mtrl: {longest}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("mtrl: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # a full disk, a folder that has gone: what was written before is whole
        return _failed(error)
    except (MemoryError, RuntimeError) as error:  # PyTorch's own errors are only told by what they say
        if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        found = " ".join((str(error) or "none left").partition("\n")[0].split())
        print(f"mtrl: Memory should suffice for networks, batches and replay. Found {found}.", file=sys.stderr)
        return BAD_INPUT
    return 0


def _failed(error: OSError) -> int:
    place = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    found = f"{error.strerror or error}{place}"
    print(f"mtrl: Files should be readable, and writable where they are written. Found {found}.", file=sys.stderr)
    return BAD_INPUT


def _collect(options: argparse.Namespace) -> None:
    from mtrl.experiment import demonstrations

    arguments = (options.options, options.episodes, options.seed, options.output, options.layout, options.jobs)
    print(f"Demonstrations: {demonstrations.collect(*arguments)}")


def _cache(options: argparse.Namespace) -> None:
    from mtrl.experiment import demonstrations

    print(f"Demonstrations: {demonstrations.cache(options.folder, options.options, options.episodes, options.output)}")


def _train(options: argparse.Namespace) -> None:
    from mtrl import configs, experiment

    sweep = experiment.sweep(options.options)
    imports = [f"imports=[{','.join(options.imports)}]"] if options.imports else []
    given = [[*run, *imports] for run in sweep]
    chosen = [experiment.saved_overrides(options.config, run) if options.config else run for run in given]
    runs = [experiment.compose(run) for run in chosen]  # all of them before the first begins
    experiment.check_sweep(runs)
    if options.show:
        import yaml

        print(yaml.safe_dump_all(map(configs.plain, runs), sort_keys=False, allow_unicode=True), end="")
        return
    folders = []
    for number, config in enumerate(runs, 1):
        if len(runs) > 1:
            print(f"Run {number} of {len(runs)}: {' '.join(sweep[number - 1])}", flush=True)
        folders.append(_train_one(config))
    if len(runs) > 1:
        print(f"Together: mtrl report {shlex.join(map(str, folders))}")


def _train_one(config: Any) -> Path:
    from mtrl import experiment

    parts, folder, result = experiment.train(config)
    _report(result)
    if config.video and not list(folder.videos.glob("*.mp4")):
        _video(parts, folder)
    print(f"Learning curves: {folder.path / 'learning_curves.png'}")
    _report_of(folder)
    print(f"Run: {folder.path}")
    return folder.path


def _report_of(folder: Any) -> None:
    """Name the report of a run, and write it if the run has just ended. What goes wrong there does not fail the run."""
    try:
        from mtrl import report

        path = folder.path / report.NAME
        if folder.status != "finished" or not path.exists():
            path = report.write([folder.path])
        print(f"Report: {path}")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"mtrl: no report ({reason}); `mtrl report {folder.path}` tries again.", file=sys.stderr)


def _study(options: argparse.Namespace) -> None:
    from mtrl.experiment import study

    overrides = [word for word in options.options if "=" in word]
    labels = [word for word in options.options if "=" not in word]
    if options.jobs < 1:
        raise expected("--jobs", "a positive integer", options.jobs)
    if not options.check:
        if not options.report:
            study.run_study(options.study, labels, overrides, options.jobs)
        print(study.table(study.report(options.study)))
        print(f"Results: {options.study}")
        return
    for run, kept, now in study.check_study(options.study, labels):
        print(f"{run}: {kept:.4g} when it was kept, {now:.4g} now", flush=True)
        if abs(kept - now) > study.TOLERANCE * max(1.0, abs(kept)):
            raise expected(f"The policy of {run}", f"within {study.TOLERANCE} of the score that it is kept with", now)


def _evaluate(options: argparse.Namespace) -> None:
    from mtrl import experiment

    parts, folder, facts = experiment.evaluate_run(options.folder, options.episodes, options.protocol, options.device)
    if options.json:
        print(json.dumps(facts))
    else:
        _report(facts)
    if options.video:
        _video(parts, folder, sys.stderr if options.json else sys.stdout)


def _report(facts: dict[str, Any]) -> None:
    from mtrl.monitoring.statistics import shown
    from mtrl.monitoring.tables import result_table

    if not facts["tasks"]:
        print("Not evaluated (training.final_episodes=0).")
        return
    rows = list(facts["tasks"].values())
    means = [key for key in rows[0] if key.startswith("mean_")]
    means.sort(key=lambda key: key != f"mean_{facts['headline']}")
    values = {key.removeprefix("mean_"): [row[key] for row in rows] for key in means}
    print(result_table(list(facts["tasks"]), values, facts["episodes"], facts.get("mean_over")))
    if (best := facts.get("best")) is not None:
        name = facts["headline"]
        value = shown(name, best[f"mean_{name}"])
        print(f"Best mean {name} on the way: {value} after {best['step']} steps, chosen by the test itself.")


def _video(parts: Any, folder: Any, stream: Any = None) -> None:
    """A short video, or one line that says what is missing for one."""
    path = folder.videos / "rollout.mp4"
    message = parts.write_video(path)
    print(f"Video: {path}" if message is None else f"No video: {message}", file=stream or sys.stdout)


def _list(options: argparse.Namespace) -> None:
    from mtrl import configs, experiment

    groups = {"benchmarks": "benchmark", "networks": "network", "agents": "agent", "recipes": "recipe"}
    known = ["benchmark", "network", "weighting", "surgery", "diagnostics", "agent", "recipe"]
    wanted = groups.get(options.what, options.what)
    if wanted is not None and wanted not in known:
        raise expected("What to list", f"one of {', '.join(known)}", options.what)
    if options.benchmark is not None:
        _list_parameters(options)
        return
    for group in [wanted] if wanted else known:
        print(f"{group}=")
        for name in configs.choices(group, experiment.REGISTRIES):
            registry = find(experiment.REGISTRIES, group, name)
            summary = registry.summary(name) if registry else configs.summary(group, name)
            print(f"  {name:<22}{summary}")


def _list_parameters(options: argparse.Namespace) -> None:
    from mtrl import experiment

    rows = experiment.parameter_counts(options.benchmark, options.options)
    names = [name for name in rows[0] if name != "kind"]
    print(f"{'network':<20}" + "".join(f"{name:>12}" for name in names))
    for row in rows:
        print(f"{row['kind']:<20}" + "".join(f"{row[name]:>12,}" for name in names))


def _bench(options: argparse.Namespace) -> None:
    from mtrl.bench import report
    from mtrl.core.cores import usable_device

    bench = importlib.import_module(f"mtrl.bench.{options.what}")
    suites: dict[str, Any] = {"suites": tuple(options.suites.split(","))} if options.suites else {}
    chosen: dict[str, Any] = {}
    if options.what in ("on_policy", "precision", "train", "update"):
        chosen = {"device": str(usable_device(options.device, "--device"))}
    if options.what in ("on_policy", "train", "update"):
        chosen |= suites
    if options.what in ("train", "update"):
        chosen["compiled"] = options.compiled
    if options.what == "update":
        named = bench.methods() if options.methods == "all" else options.methods.split(",")
        chosen |= {"chosen": named, "repetitions": options.repetitions}
    result = bench.measure(options.quick, **chosen)
    print(json.dumps(result) if options.json else report.table(result))


def _data(options: argparse.Namespace) -> None:
    from mtrl.data.fetch import fetch
    from mtrl.monitoring.progress import counter

    for path in fetch(options.name, options.root, lambda name: counter(f"bytes of {name}")):
        print(path)


def _plot(options: argparse.Namespace) -> None:
    from mtrl import experiment

    print(experiment.plot_runs([Path(folder) for folder in options.folders], options.output, options.kind))


def _report_page(options: argparse.Namespace) -> None:
    from mtrl import report

    print(f"Report: {report.write(options.folders, options.output, options.title)}")


def _compare(options: argparse.Namespace) -> None:
    from mtrl.experiment import compare

    facts = compare.compare_runs(options.folders, options.against, options.across_protocols)
    print(json.dumps(facts) if options.json else compare.table(facts))


def _group(options: argparse.Namespace) -> None:
    from mtrl import experiment
    from mtrl.gradients.grouping import table

    found = experiment.group_run(options.folder, options.groups, options.network, options.output)
    print(table(found.tasks, found.grouping))
    imports = "".join(f"--import {module} " for module in options.imports)
    for file in found.files:
        print(f"mtrl train {imports}--config {shlex.quote(str(file))}")


COMMANDS = {
    "train": _train,
    "study": _study,
    "evaluate": _evaluate,
    "list": _list,
    "bench": _bench,
    "data": _data,
    "plot": _plot,
    "report": _report_page,
    "compare": _compare,
    "group": _group,
    "collect": _collect,
    "cache": _cache,
}

if __name__ == "__main__":
    sys.exit(main())
