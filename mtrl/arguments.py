"""What the command line takes: its commands, their options and the help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtrl import __version__
from mtrl.core.config import PICTURES
from mtrl.core.errors import UserError, expected

BENCHES = ("update", "growth", "train", "on_policy", "precision", "cloning", "auxiliary", "envs", "rivals", "startup")
_TRAIN = (
    "Example: mtrl train benchmark=mt10 network=mint surgery=pcgrad seed=1 steps=2000000. "
    "Values with commas between them are runs one after another: surgery=none,pcgrad seed=1,2,3 are six."
)


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    train.set_defaults(command="train")

    study = commands.add_parser("study", help="make the runs that a file names, keep, table and draw them")
    study.add_argument("study", type=Path, metavar="STUDY", help="a folder with a study.yaml, such as results/mt10")
    study.add_argument("options", nargs="*", metavar="LABEL | key=value", help="some of the runs; overrides of all")
    study.add_argument("--jobs", type=int, default=1, help="runs at once; more than 1 have one thread each (1)")
    study.add_argument("--report", action="store_true", help="no runs: table and draw what is kept already")
    study.add_argument("--check", action="store_true", help="evaluate the kept policies again instead, and compare")
    _add_imports(study)
    study.set_defaults(command="study")

    evaluate = commands.add_parser("evaluate", help="evaluate the newest checkpoint of a run")
    evaluate.add_argument("folder", metavar="RUN", help="the run's folder")
    evaluate.add_argument("--episodes", type=int, default=50, help="per task (50, each goal once)")
    evaluate.add_argument("--protocol", choices=("goals", "upstream"), default="goals", help="how goals are drawn")
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, ... or auto")
    evaluate.add_argument("--video", action="store_true", help="also write a short video")
    evaluate.add_argument("--json", action="store_true", help="print the whole result as JSON")
    _add_imports(evaluate)
    evaluate.set_defaults(command="evaluate")

    _add_demos(commands)

    listing = commands.add_parser("list", help="what there is to choose from")
    listing.add_argument("what", nargs="?", help="one of benchmarks, networks, weighting, surgery, agents, recipes")
    listing.add_argument("--benchmark", help="count the networks' parameters on this benchmark")
    listing.add_argument("options", nargs="*", metavar="key=value", help="with --benchmark: options of the networks")
    _add_imports(listing)
    listing.set_defaults(command="list")

    bench = commands.add_parser("bench", help="measure speed on this machine")
    bench.add_argument("what", choices=BENCHES)
    bench.add_argument("--json", action="store_true", help="print the rows as JSON")
    bench.add_argument("--methods", default="pcgrad", help="update: names with commas between them, or all")
    bench.add_argument("--suites", default="", help="update, train, on_policy: mt10, mt50 or both")
    bench.add_argument("--repetitions", type=int, default=50, help="update, rivals: of each update")
    checkout = "update, rivals: a checkout of metaworld-algorithms, whose updates are timed too"
    bench.add_argument("--jax-baselines", type=Path, metavar="FOLDER", help=checkout)
    bench.add_argument("--jax-python", default=sys.executable, help="the interpreter for them, which has JAX")
    bench.add_argument(
        "--compiled", action="store_true", help="update: compiled ones too, after a minute each; train: those"
    )
    bench.add_argument("--device", default="cpu", help="update, train, precision: cpu, cuda, ...")
    bench.add_argument("--quick", action="store_true", help="a few seconds instead of minutes, for a rough look")
    bench.set_defaults(command="bench")

    data = commands.add_parser("data", help="download image data sets")
    data.add_argument("what", choices=("fetch",))
    data.add_argument("name", help="cifar10, cifar100, mnist or svhn")
    data.add_argument("--root", type=Path, default=Path("data"), help="where benchmark.root looks for it (data)")
    data.set_defaults(command="data")

    plot = commands.add_parser("plot", help="draw runs")
    plot.add_argument("folders", nargs="+", metavar="RUN")
    plot.add_argument("--kind", choices=PICTURES, default=PICTURES[0], help="what to draw (curves)")
    plot.add_argument("--output", type=Path, help="the picture's path (learning_curves.png in the run)")
    _add_imports(plot)
    plot.set_defaults(command="plot")

    _add_reports(commands)

    group = commands.add_parser("group", help="find the tasks to train together, from a run's affinities")
    group.add_argument("folder", metavar="RUN", help="a run with diagnostics=transference")
    group.add_argument("--groups", type=int, required=True, metavar="K", help="groups at most")
    group.add_argument("--network", help="whose losses' affinities: critic (the default) or actor")
    group.add_argument("--output", type=Path, help="the folder of the groups' configurations (groups/ in the run)")
    _add_imports(group)
    group.set_defaults(command="group")
    return parser


def _add_imports(command: argparse.ArgumentParser) -> None:
    what = "a Python module that adds networks, surgery, ... of your own; may be given again for another"
    command.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=what)


def _add_reports(commands: Any) -> None:
    report = commands.add_parser("report", help="write what runs were, and what they reached, as one web page")
    report.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run, or a folder with runs in it")
    report.add_argument("--output", type=Path, metavar="FILE", help="the page (report.html in the run, or around all)")
    report.add_argument("--title", default="", help="the page's heading")
    report.set_defaults(command="report")
    compare = commands.add_parser("compare", help="tell how sure it is that methods are better than another")
    compare.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run, or a folder with runs in it")
    against = "the runs of the one method that they are compared with"
    compare.add_argument("--against", nargs="+", type=Path, required=True, metavar="RUN", help=against)
    across = "also where reward version, horizon, episodes, goals, steps, ... differ"
    compare.add_argument("--across-protocols", action="store_true", help=across)
    compare.add_argument("--json", action="store_true", help="print everything as JSON")
    compare.set_defaults(command="compare")


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
    collect.set_defaults(command="collect")
    cache = actions.add_parser("cache", help="make a cache of demonstrations in RLBench's folders")
    cache.add_argument("folder", type=Path, help="that holds <task>/variation<N>/episodes/episode<M>")
    cache.add_argument("options", nargs="*", metavar="key=value", help="benchmark=rlbench and its options")
    cache.add_argument("--episodes", type=int, help="of each task; all if not given")
    cache.add_argument("--output", type=Path, default=Path("demos"), help="folder; a benchmark gets one in it")
    _add_imports(cache)
    cache.set_defaults(command="cache")
