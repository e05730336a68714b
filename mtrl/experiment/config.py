"""The configuration of one run: which parts it has, and with which options."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from mtrl import configs
from mtrl.agents import AGENTS
from mtrl.core.config import check, check_choice, path_option, runtime_option, runtime_options
from mtrl.core.errors import UserError, expected
from mtrl.core.registry import Registry
from mtrl.envs import SUITES
from mtrl.gradients import DIAGNOSTICS, SURGERIES, WEIGHTINGS
from mtrl.monitoring.progress import say
from mtrl.networks import DENSE_NETWORKS, IMAGE_NETWORKS, KEYFRAME_NETWORKS, NETWORKS
from mtrl.training import TRAININGS

CRITIC = tuple(Registry(f"critic_{r.group}", r.package, usual=r.group) for r in (WEIGHTINGS, SURGERIES))
"""The weightings and surgeries again, as choices for the critics only."""
METHODS = (WEIGHTINGS, SURGERIES, *CRITIC, DIAGNOSTICS)
NETWORK_KINDS = (NETWORKS, IMAGE_NETWORKS, DENSE_NETWORKS, KEYFRAME_NETWORKS)
REGISTRIES = (SUITES, *NETWORK_KINDS, *METHODS, AGENTS, TRAININGS)

SHORT = {
    "tasks": "benchmark.tasks",
    "replay": "training.replay",
    "on_nonfinite": "training.on_nonfinite",
    "collector": "training.collector",
    "collector.workers": "training.workers",
    "collector.address": "training.collector_address",
    "collector.cpus": "training.collector_cpus",
}
_LONGEST_NAME = 200
"""Bytes: file systems allow 255."""
_MOST_THREADS = 1024
"""The limit of `threads`: OpenMP ends the process if the system cannot create as many threads as it requests."""
USABLE = f"the name of one folder: at most {_LONGEST_NAME} bytes, no slash, no dash in front, and not '.' or '..'"


@dataclass
class ExperimentConfig:
    """The configuration of one run. Each group is the configuration of one part."""

    benchmark: Any = None
    network: Any = None
    weighting: Any = None
    surgery: Any = None
    agent: Any = None
    training: Any = None
    critic_weighting: Any = None
    critic_surgery: Any = None
    diagnostics: Any = None
    recipe: Any = None
    steps: int = 2_000_000
    """Length of the run. Its unit depends on `training`: environment steps of each task, training images, and so on."""
    seed: int = 1
    """The seed of everything random: networks, goals, exploration, sampling."""
    device: str = runtime_option("auto")
    """cpu, cuda, cuda:1, ..., or auto: a CUDA device where there is one, otherwise the CPU."""
    threads: int = runtime_option(0)
    """The number of PyTorch's threads on the CPU; 0 lets PyTorch choose."""
    experiment: str = path_option("", changes_results=True)
    """The run's name; by default `<network>-<weighting>-<surgery>`, where a critic's own method follows as
    `-critic-<method>`. A hash is added if the benchmark alone would imply another agent or training, if there are
    diagnostics, or if options of the parts differ from their defaults."""
    runs: str = path_option("runs")
    """The folder of all runs."""
    video: bool = runtime_option(False)
    """Whether to film an episode of each task, or of some tasks if there are many, after training."""
    start: str = path_option("", changes_results=True)
    """The folder of a run of agent=mbml to start from. Its policy acts in place of the random actions at the beginning,
    and the agent of training=off_policy imitates it before its first update."""
    wandb: str = runtime_option("off")
    """Whether Weights & Biases gets a copy of the numbers: off, offline (for `wandb sync`) or online."""
    imports: list[str] = field(default_factory=list)
    """Modules named by --import, which add choices such as agents. Reading a saved configuration never imports them."""

    kind = "train"

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", "a positive integer", self.steps)
        check(0 <= self.seed < 2**63, "seed", "0 or more, and below 2^63", self.seed)
        check(0 <= self.threads <= _MOST_THREADS, "threads", f"0 to {_MOST_THREADS}", self.threads)
        check(_is_path(self.runs) and self.runs != "", "runs", "the path of a folder", self.runs)
        check_choice("wandb", self.wandb, ("off", "offline", "online"))
        check(not self.experiment or is_name(self.experiment), "experiment", USABLE, self.experiment)


def is_name(text: str) -> bool:
    """Whether a folder in a run's path may have this name."""
    plain = _is_path(text) and "/" not in text and text not in ("", ".", "..") and text[:1] != "-"
    return plain and len(text.encode()) <= _LONGEST_NAME


def _is_path(text: str) -> bool:
    """Whether the text can be a path: one line of valid Unicode."""
    return not re.search("[\0\n\r\ud800-\udfff]", text)


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """The configuration that `key=value` overrides describe.

    Short forms (`SHORT`) are written out, such as `tasks=` for `benchmark.tasks=`; `task=` means a list of one task. A
    benchmark implies options (`SuiteConfig.defaults`, such as the agent for its data), unless a recipe is chosen. A
    chosen part may have values from its paper for the benchmark (`published` of its Config). Overrides take precedence
    over both, and a recipe takes precedence over the paper's values.

    Raises:
        UserError: an override is malformed, names nothing, or gives a value of the wrong type or range.
    """
    return configs.compose(ExperimentConfig, REGISTRIES, completed(overrides))


def completed(overrides: Sequence[str]) -> list[str]:
    """The overrides with short forms written out, preceded by those that the chosen benchmark and parts imply."""
    given = [_written_out(override) for override in overrides]
    chosen = {key: value for key, _, value in (o.partition("=") for o in given)}
    _check_imports(chosen.get("imports", ""))
    benchmark = chosen.get("benchmark") if "recipe" not in chosen else None
    implied = _implied(benchmark) if benchmark in SUITES.kinds else {}
    kinds = configs.selected(ExperimentConfig, given)
    usual = [
        f"{option}={value}" for option, value in implied.items() if option not in chosen and _has(option, chosen, kinds)
    ]
    usual += [f"{option}={value}" for option, value in _published([*usual, *given]).items()]
    return [*usual, *given]


def _has(option: str, chosen: Mapping[str, str], kinds: Mapping[str, Sequence[str]]) -> bool:
    """Whether an option that a benchmark implies exists: not if another kind than the benchmark's lacks it."""
    group, _, name = option.partition(".")
    registry = configs.find(REGISTRIES, group, ",".join(kinds[group])) if group in chosen and name else None
    return registry is None or name in registry.options(kinds[group][0])


def left_out(overrides: Sequence[str]) -> list[str]:
    """A sentence for each option of a recipe that is ignored, because an override chose a part without that option."""
    given = completed(overrides)
    chosen = configs.selected(ExperimentConfig, given)
    name = next((override for override in reversed(given) if override.startswith("recipe=")), "")
    lacking = [option.split(".") for option in configs.presets.recipe(REGISTRIES, given, chosen)[1]]
    parts = {group: f"{group}={','.join(chosen[group]) or 'null'}" for group, *_ in lacking}
    return [
        f"{name} sets {'.'.join(names)}, which {parts[names[0]]} does not have. It is left out." for names in lacking
    ]


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep; see `configs.sweep`."""
    return configs.sweep(ExperimentConfig, REGISTRIES, overrides)


def is_whole(option: str, overrides: Sequence[str]) -> bool:
    """Whether an option of the parts that the overrides choose takes only integers."""
    return configs.is_whole(ExperimentConfig, REGISTRIES, SHORT.get(option, option), completed(overrides))


def _implied(benchmark: str) -> dict[str, str]:
    """{option: value} that a benchmark implies. Its own values take precedence over those of its kind of data."""
    return {**SUITES.constant(benchmark, "spec_type").defaults, **(SUITES.constant(benchmark, "defaults") or {})}


def _published(given: Sequence[str]) -> dict[str, str]:
    """{option: value} from the chosen parts' papers for the chosen benchmark (`published` of the parts' Config).

    Options that `given` or a recipe sets are left out, as they take precedence.
    """
    selected, recipe = configs.selected(ExperimentConfig, given), configs.presets.preset("recipe", given)
    benchmark, taken = ",".join(selected["benchmark"]), {option.partition("=")[0] for option in given}
    found = {}
    for group, kind in [(group, kinds[0]) for group, kinds in selected.items() if len(kinds) == 1]:
        registry = configs.find(REGISTRIES, group, kind)
        table = registry.constant(kind, "published") if registry and not registry.many else None
        for option, value in (table or {}).get(benchmark, {}).items():
            if option not in (recipe.get(group) or {}):
                found[f"{group}.{option}"] = value
    return {option: value for option, value in found.items() if option not in taken}


def _written_out(override: str) -> str:
    """An override without the short forms of `compose`."""
    key, equals, value = override.partition("=")
    if key == "task" and equals:
        return f"benchmark.tasks=[{value}]"
    return SHORT.get(key, key) + equals + value


def run_name(config: ExperimentConfig) -> str:
    """The experiment's name in the run's path."""
    both = ((config.weighting, config.critic_weighting), (config.surgery, config.critic_surgery))
    weighting, surgery = (one.kind if critic is None else f"{one.kind}-critic-{critic.kind}" for one, critic in both)
    return config.experiment or experiment_name(config.network.kind, weighting, surgery, non_default(config))


def experiment_name(network: str, weighting: str, surgery: str, non_default: Mapping[str, Any]) -> str:
    """`<network>-<weighting>-<surgery>`, with eight digits of a hash of `non_default` if that is not empty."""
    name = f"{network}-{weighting}-{surgery}"
    if not non_default:
        return name
    fields = json.dumps(non_default, sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(fields.encode()).hexdigest()[:8]}"


def compose_all(runs: Iterable[Sequence[str]]) -> list[ExperimentConfig]:
    """The configurations of several runs. Prints which options of their recipes are ignored (see `left_out`).

    Raises:
        UserError: as in `compose`, or two of the runs would share a folder.
    """
    every = list(runs)
    found = [compose(overrides) for overrides in every]
    _check_places(found)
    for line in dict.fromkeys(line for overrides in every for line in left_out(overrides)):
        say(line)
    return found


def _check_places(runs: Sequence[ExperimentConfig]) -> None:
    seen = set()
    for run in runs:
        place = (run.benchmark.name, run_name(run), run.seed)
        if place in seen:
            what = "in a folder of its own (leave `experiment` out, and vary options that change results)"
            raise expected("Each run of a sweep", what, f"two runs named {run_name(run)} with seed {run.seed}")
        seen.add(place)


def restore(saved: dict[str, Any]) -> ExperimentConfig:
    """The configuration from the contents of a run's `config.yaml`.

    Raises:
        UserError: it holds something that this version does not know, or needs modules that have not been imported.
    """
    _check_imports(str(saved.get("imports", "")))
    return configs.restore(ExperimentConfig, REGISTRIES, saved)


def saved_overrides(path: Path, further: list[str]) -> list[str]:
    """The overrides that a configuration file stands for, and further ones, which take precedence.

    Raises:
        UserError: `path` is not a configuration file, or `further` has a recipe, which would change nothing.
    """
    name = next((override for override in further if override.startswith("recipe=")), "")
    check(not name, "recipe", "left out with --config, whose file sets every option", name)
    from mtrl.monitoring.run import read_config  # this imports PyTorch

    saved = read_config(path, "--config")
    return configs.overrides(REGISTRIES, saved, further)


def non_default(config: ExperimentConfig) -> dict[str, Any]:
    """The options of the chosen parts that differ from their defaults and change results, by dotted name.

    Also the kinds of all diagnostics, and those of the agent and the training if the benchmark alone would imply
    others. `benchmark.tasks` is left out where the benchmark's name already says which tasks.
    """
    parts = {registry.group: getattr(config, registry.group) for registry in REGISTRIES if not registry.many}
    watching = {f"diagnostics.{kind}": part for kind, part in (config.diagnostics or {}).items()}
    changed: dict[str, Any] = {f"{group}.kind": part.kind for group, part in watching.items()}
    implied = configs.selected(ExperimentConfig, completed([f"benchmark={config.benchmark.kind}"]))
    learner = {group: parts[group].kind for group in ("agent", "training")}
    changed |= {f"{group}.kind": kind for group, kind in learner.items() if [kind] != [*implied[group]]}
    for group, part in {**parts, **watching}.items():
        if part is not None:
            values, usual, free = configs.plain(part), configs.plain(type(part)), runtime_options(type(part))
            names = [name for name, value in values.items() if value != usual[name] and name not in free]
            changed |= {f"{group}.{name}": values[name] for name in names}
    if config.benchmark.name != config.benchmark.kind:
        changed.pop("benchmark.tasks", None)
    return changed


def free_keys(config: ExperimentConfig) -> set[str]:
    """The options, by dotted name, that do not change results, and so may differ when a run is started again."""
    parts = {registry.group: getattr(config, registry.group) for registry in REGISTRIES if not registry.many}
    below = {f"{group}.{name}" for group, part in parts.items() if part for name in runtime_options(type(part))}
    return runtime_options(type(config)) | below


def defaults(config: ExperimentConfig) -> dict[str, Any]:
    """{option: default}, and {group: {option: default}} of the chosen parts.

    A run older than an option is taken to use its default.
    """
    parts = {registry.group: getattr(config, registry.group) for registry in REGISTRIES if not registry.many}
    return _defaults(config) | {group: _defaults(part) for group, part in parts.items() if part}


def _defaults(options: Any) -> dict[str, Any]:
    made = {f.name: f.default_factory() for f in fields(options) if f.default_factory is not MISSING}
    found = {f.name: f.default for f in fields(options) if f.default is not MISSING} | made
    return {name: asdict(value) if is_dataclass(value) else value for name, value in found.items()}  # type: ignore[arg-type]


def told_apart(config: ExperimentConfig) -> dict[str, Any]:
    """The options that tell experiments apart, by dotted name: all except the seed and those of `free_keys`."""
    free = {"seed", *free_keys(config)}
    return {name: value for name, value in configs.leaves("", configs.plain(config)) if name not in free}


def _check_imports(listed: str) -> None:
    """Check that all modules in the list have been imported, because a file alone must never run code.

    Raises:
        UserError: some modules have not been imported. The message names them, and says how to import them.
    """
    missing = [module for module in re.findall(r"[\w.]+", listed) if module not in sys.modules]
    if missing:
        flags, names = " ".join(f"--import {module}" for module in missing), ", ".join(missing)
        raise UserError(
            f"A run made with {flags} should be opened with the same flags (in Python: import {names} first), because "
            f"a run's record never runs code by itself. Found {names} not imported."
        )
