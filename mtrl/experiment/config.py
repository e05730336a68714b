"""One run's configuration: which parts, with which options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrl import configs
from mtrl.agents import AGENTS
from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.envs import SUITES
from mtrl.gradients import AFFINITIES, DIAGNOSTICS, SURGERIES, WEIGHTINGS
from mtrl.monitoring.run import experiment_name
from mtrl.networks import IMAGE_NETWORKS, KEYFRAME_NETWORKS, NETWORKS
from mtrl.training import TRAININGS

METHODS = (WEIGHTINGS, SURGERIES, DIAGNOSTICS, AFFINITIES)
REGISTRIES = (SUITES, NETWORKS, IMAGE_NETWORKS, KEYFRAME_NETWORKS, *METHODS, AGENTS, TRAININGS)
FREE_KEYS = (
    "device",
    "threads",
    "runs",
    "video",
    "agent.execution",
    "agent.updates_per_launch",
    "benchmark.root",
    "training.log_every",
    "training.checkpoint_every",
    "training.single_task",
)
"""What may change between two starts of the same run: it does not change the result."""


@dataclass
class ExperimentConfig:
    """One run. Each group is the configuration of one part."""

    benchmark: Any = None
    network: Any = None
    weighting: Any = None
    surgery: Any = None
    agent: Any = None
    training: Any = None
    diagnostics: Any = None
    affinity: Any = None
    recipe: Any = None
    steps: int = 2_000_000
    """Environment steps of each task."""
    seed: int = 1
    """Of everything random: networks, goals, exploration, sampling."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: a GPU where there is one."""
    threads: int = 0
    """PyTorch's threads on the CPU; 0 for its own choice."""
    experiment: str = ""
    """The run's name; by default <network>-<weighting>-<surgery>, and a hash where other options are set."""
    runs: str = "runs"
    """The folder of all runs."""
    video: bool = False
    """Film one episode of every task at the end."""

    kind = "train"

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", "a positive integer", self.steps)
        check(self.seed >= 0, "seed", "0 or more", self.seed)
        check(self.threads >= 0, "threads", "0 or more", self.threads)
        for name in (self.experiment, self.runs):
            check("\0" not in name and "\n" not in name, "experiment", "a plain name", name)
        check("/" not in self.experiment, "experiment", "a name without a slash", self.experiment)


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """The configuration that `key=value` overrides describe.

    `tasks=` is short for `benchmark.tasks=`, `task=` for a list of one task, and `replay=` for `training.replay=`. What
    a benchmark implies (`SuiteConfig.implied`: the agent that goes with its data, ...) holds where neither a recipe nor
    an override chooses otherwise.
    """
    given = [_written_out(override) for override in overrides]
    chosen = {key: value for key, _, value in (o.partition("=") for o in given)}
    benchmark = chosen.get("benchmark") if "recipe" not in chosen else None
    implied = SUITES.config_class(benchmark).implied() if benchmark in SUITES.kinds else {}
    usual = [f"{option}={value}" for option, value in implied.items() if option not in chosen]
    return configs.compose(ExperimentConfig, REGISTRIES, [*usual, *given])


def _written_out(override: str) -> str:
    """An override without the short forms of `compose`."""
    key, equals, value = override.partition("=")
    if key == "task" and equals:
        return f"benchmark.tasks=[{value}]"
    return {"tasks": "benchmark.tasks", "replay": "training.replay"}.get(key, key) + equals + value


def run_name(config: ExperimentConfig) -> str:
    """The experiment's name in the run's path."""
    parts = (config.network.kind, config.weighting.kind, config.surgery.kind)
    return config.experiment or experiment_name(*parts, non_default(config))


def check_sweep(runs: Sequence[ExperimentConfig]) -> None:
    """Refuse runs of which two would have one folder.

    Raises:
        UserError: it names the folder's experiment and seed.
    """
    seen = set()
    for run in runs:
        place = (run.benchmark.name, run_name(run), run.seed)
        if place in seen:
            what = "runs that differ in more than a name can tell (without `experiment`, and in what changes a result)"
            raise expected("A sweep", what, f"two of {run_name(run)}, seed {run.seed}")
        seen.add(place)


def restore(saved: dict[str, Any]) -> ExperimentConfig:
    """The configuration of a run folder's `config.yaml`."""
    return configs.restore(ExperimentConfig, REGISTRIES, saved)


def non_default(config: ExperimentConfig) -> dict[str, Any]:
    """The options that differ from the defaults of the parts chosen, by dotted name."""
    changed: dict[str, Any] = {}
    for registry in REGISTRIES:
        part = configs.plain(getattr(config, registry.group))
        if part["kind"] not in registry.kinds:
            continue
        default = configs.plain(registry.config_class(part["kind"]))
        names = {f"{registry.group}.{name}": (value, default[name]) for name, value in part.items()}
        changed |= {name: value for name, (value, usual) in names.items() if value != usual and name not in FREE_KEYS}
    watching = {f"{group}.kind": getattr(config, group).kind for group in ("diagnostics", "affinity")}
    changed |= {key: kind for key, kind in watching.items() if kind != "none"}
    if config.benchmark.name != config.benchmark.kind:  # the name tells which tasks
        changed.pop("benchmark.tasks", None)
    return changed
