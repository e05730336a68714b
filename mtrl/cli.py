"""The command line: mtrl train | study | evaluate | demos | list | bench | data | plot | group.

Bad input ends in one line that says what was expected and what was found, and exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtrl import __version__
from mtrl.core.errors import UserError, expected
from mtrl.core.registry import find, import_by_name

BAD_INPUT, INTERRUPTED = 2, 130
BENCHES = ("update", "growth", "train", "precision", "cloning", "auxiliary", "envs", "startup")
PICTURES = ("curves", "conflicts", "lambdas", "triad", "affinity")
# Read by OpenMP when torch is loaded. Threads that wait by spinning take the cores from the environments' threads, and
# on a machine that does anything else an update takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        options = _parse(arguments)
        import_by_name(getattr(options, "imports", []))
        options.run(options)
    except UserError as error:
        print(f"mtrl: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("mtrl: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, taking key=value options on either side of the flags, which argparse alone does not."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    for word in words:
        if word.endswith("\r"):
            what = "without a carriage return (Windows line end): save the script that holds it with Unix line ends"
            raise expected(f"The word {word.strip()!r}", what, word)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and hasattr(options, "options") and not any(word.startswith("-") for word in rest):
        options.options += rest
    elif rest:
        flag = rest[0].lstrip("-").partition("=")[0]
        hint = f"; options are written {flag}=VALUE" if hasattr(options, "options") and rest[0] != "-" else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mtrl", description="One agent, many robot tasks.")
    parser.add_argument("--version", action="version", version=f"mtrl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="train an agent, or go on with a run", description=_TRAIN)
    train.add_argument("options", nargs="*", metavar="key=value", help="see `mtrl list` for what there is")
    train.add_argument("--config", type=Path, metavar="FILE", help="start from a run's config.yaml, or a group's")
    train.add_argument("--show", action="store_true", help="print the whole configuration and stop")
    _add_imports(train)
    train.set_defaults(run=_train)

    study = commands.add_parser("study", help="make the runs that a file names, keep, table and draw them")
    study.add_argument("study", type=Path, metavar="STUDY", help="a folder with a study.yaml, such as results/mt10")
    study.add_argument("options", nargs="*", metavar="LABEL | key=value", help="some of the runs; overrides of all")
    study.add_argument("--jobs", type=int, default=1, help="runs at once; more than 1 have one thread each (1)")
    study.add_argument("--report", action="store_true", help="no runs: table and draw what is kept already")
    study.add_argument("--check", action="store_true", help="evaluate the kept policies again instead, and compare")
    _add_imports(study)
    study.set_defaults(run=_study)

    evaluate = commands.add_parser("evaluate", help="evaluate the newest checkpoint of a run")
    evaluate.add_argument("folder", metavar="RUN", help="the run's folder")
    evaluate.add_argument("--episodes", type=int, default=50, help="per task (50, each goal once)")
    evaluate.add_argument("--protocol", choices=("goals", "upstream"), default="goals", help="how goals are drawn")
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, ... or auto")
    evaluate.add_argument("--video", action="store_true", help="also write a short video")
    evaluate.add_argument("--json", action="store_true", help="print the whole result as JSON")
    _add_imports(evaluate)
    evaluate.set_defaults(run=_evaluate)

    _add_demos(commands)

    listing = commands.add_parser("list", help="what there is to choose from")
    listing.add_argument("what", nargs="?", help="one of benchmarks, networks, weighting, surgery, agents, recipes")
    listing.add_argument("--benchmark", help="count the networks' parameters on this benchmark")
    listing.add_argument("options", nargs="*", metavar="key=value", help="with --benchmark: options of the networks")
    _add_imports(listing)
    listing.set_defaults(run=_list)

    bench = commands.add_parser("bench", help="measure speed on this machine")
    bench.add_argument("what", choices=BENCHES)
    bench.add_argument("--json", action="store_true", help="print the rows as JSON")
    bench.add_argument("--methods", default="pcgrad", help="update: names with commas between them, or all")
    bench.add_argument("--suites", default="", help="update, train: mt10, mt50 or both")
    bench.add_argument("--repetitions", type=int, default=50, help="update: of each row")
    bench.add_argument(
        "--compiled", action="store_true", help="update: compiled ones too, after a minute each; train: those"
    )
    bench.add_argument("--device", default="cpu", help="update, train, precision: cpu, cuda, ...")
    bench.add_argument("--quick", action="store_true", help="a few seconds instead of minutes, for a rough look")
    bench.set_defaults(run=_bench)

    data = commands.add_parser("data", help="download image data sets")
    data.add_argument("what", choices=("fetch",))
    data.add_argument("name", help="cifar10, cifar100, mnist or svhn")
    data.add_argument("--root", type=Path, default=Path("data"), help="where benchmark.root looks for it (data)")
    data.set_defaults(run=_data)

    plot = commands.add_parser("plot", help="draw runs")
    plot.add_argument("folders", nargs="+", metavar="RUN")
    plot.add_argument("--kind", choices=PICTURES, default=PICTURES[0], help="what to draw (curves)")
    plot.add_argument("--output", type=Path, help="the picture's path (learning_curves.png in the run)")
    _add_imports(plot)
    plot.set_defaults(run=_plot)

    group = commands.add_parser("group", help="find the tasks to train together, from a run's affinities")
    group.add_argument("folder", metavar="RUN", help="a run with diagnostics=transference")
    group.add_argument("--groups", type=int, required=True, metavar="K", help="groups at most")
    group.add_argument("--network", help="whose losses' affinities: critic (the default) or actor")
    group.add_argument("--output", type=Path, help="the folder of the groups' configurations (groups/ in the run)")
    _add_imports(group)
    group.set_defaults(run=_group)
    return parser


def _add_imports(command: argparse.ArgumentParser) -> None:
    what = "a Python module that adds networks, surgery, ... of your own; may be given again for another"
    command.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=what)


def _add_demos(commands: Any) -> None:
    demos = commands.add_parser("demos", help="collect demonstrations, or make a cache of those you have")
    actions = demos.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    collect = actions.add_parser("collect", help="let a benchmark's experts show its tasks")
    collect.add_argument("options", nargs="*", metavar="key=value", help="benchmark=keyframes and its options")
    collect.add_argument("--episodes", type=int, default=100, help="of each task (100)")
    collect.add_argument("--seed", type=int, default=1, help="of the scenes")
    collect.add_argument("--layout", choices=("cache", "rlbench"), default="cache", help="what to write")
    collect.add_argument("--output", type=Path, default=Path("demos"), help="folder; a benchmark gets one in it")
    collect.add_argument("--jobs", type=int, default=0, help="processes; as many as there are cores if not given")
    _add_imports(collect)
    collect.set_defaults(run=_collect)
    cache = actions.add_parser("cache", help="make a cache of demonstrations in RLBench's folders")
    cache.add_argument("folder", type=Path, help="that holds <task>/variation<N>/episodes/episode<M>")
    cache.add_argument("options", nargs="*", metavar="key=value", help="benchmark=rlbench and its options")
    cache.add_argument("--episodes", type=int, help="of each task; all if not given")
    cache.add_argument("--output", type=Path, default=Path("demos"), help="folder; a benchmark gets one in it")
    _add_imports(cache)
    cache.set_defaults(run=_cache)


def _collect(options: argparse.Namespace) -> None:
    from mtrl.experiment import demonstrations

    arguments = (options.options, options.episodes, options.seed, options.output, options.layout, options.jobs)
    print(f"Demonstrations: {demonstrations.collect(*arguments)}")


def _cache(options: argparse.Namespace) -> None:
    from mtrl.experiment import demonstrations

    print(f"Demonstrations: {demonstrations.cache(options.folder, options.options, options.episodes, options.output)}")


_TRAIN = (
    "Example: mtrl train benchmark=mt10 network=mint surgery=pcgrad seed=1 steps=2000000. "
    "Values with commas between them are runs one after another: surgery=none,pcgrad seed=1,2,3 are six."
)


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
        print(f"Together: mtrl plot {shlex.join(map(str, folders))} --output curves.png")


def _train_one(config: Any) -> Path:
    from mtrl import experiment

    parts, folder, result = experiment.train(config)
    _report(result)
    if config.video and not list(folder.videos.glob("*.mp4")):
        _video(parts, folder)
    print(f"Learning curves: {folder.path / 'learning_curves.png'}")
    print(f"Run: {folder.path}")
    return folder.path


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

    bench = importlib.import_module(f"mtrl.bench.{options.what}")
    suites: dict[str, Any] = {"suites": tuple(options.suites.split(","))} if options.suites else {}
    chosen: dict[str, Any] = {}
    if options.what in ("precision", "train", "update"):
        chosen = {"device": options.device}
    if options.what in ("train", "update"):
        chosen |= {"compiled": options.compiled, **suites}
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


def _group(options: argparse.Namespace) -> None:
    from mtrl import experiment
    from mtrl.gradients.grouping import table

    found = experiment.group_run(options.folder, options.groups, options.network, options.output)
    print(table(found.tasks, found.grouping))
    imports = "".join(f"--import {module} " for module in options.imports)
    for file in found.files:
        print(f"mtrl train {imports}--config {shlex.quote(str(file))}")


if __name__ == "__main__":
    sys.exit(main())
