"""One run's configuration: which parts, with which options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrl import configs
from mtrl.agents import AGENTS
from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.registry import Registry
from mtrl.envs import SUITES
from mtrl.gradients import DIAGNOSTICS, SURGERIES, WEIGHTINGS
from mtrl.monitoring.run import experiment_name
from mtrl.networks import IMAGE_NETWORKS, KEYFRAME_NETWORKS, NETWORKS
from mtrl.training import TRAININGS

CRITIC = (Registry("critic_weighting", WEIGHTINGS.package), Registry("critic_surgery", SURGERIES.package))
"""The same methods, for the critics alone."""
METHODS = (WEIGHTINGS, SURGERIES, *CRITIC, DIAGNOSTICS)
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
    critic_weighting: Any = None
    critic_surgery: Any = None
    diagnostics: Any = None
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
        if self.diagnostics:  # a recipe may have options of one that is not chosen, which are then a plain dict
            chosen = {kind: part for kind, part in self.diagnostics.items() if not isinstance(part, dict)}
            self.diagnostics = chosen or None


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """The configuration that `key=value` overrides describe; `task=` is short for `benchmark.task=`, and `replay=` for
    `training.replay=`.

    A benchmark may imply other groups' choices (`Config.implies`: the agent that goes with its data, ...), which hold
    where neither a recipe nor an override chooses otherwise.
    """
    short = {"task": "benchmark.task", "tasks": "benchmark.tasks", "replay": "training.replay"}
    given = [short.get(key, key) + equals + value for key, equals, value in (o.partition("=") for o in overrides)]
    chosen = {key: value for key, _, value in (o.partition("=") for o in given)}
    benchmark = chosen.get("benchmark") if "recipe" not in chosen else None
    implies = getattr(SUITES.config_class(benchmark), "implies", {}) if benchmark in SUITES.kinds else {}
    implied = [f"{group}={kind}" for group, kind in implies.items() if group not in chosen]
    return configs.compose(ExperimentConfig, REGISTRIES, [*implied, *given])


def run_name(config: ExperimentConfig) -> str:
    """The experiment's name in the run's path."""
    both = ((config.weighting, config.critic_weighting), (config.surgery, config.critic_surgery))
    weighting, surgery = (one.kind if critic is None else f"{one.kind}-critic-{critic.kind}" for one, critic in both)
    return config.experiment or experiment_name(config.network.kind, weighting, surgery, non_default(config))


def check_sweep(runs: Sequence[ExperimentConfig]) -> None:
    """Refuse runs of which two would have one folder.

    Raises:
        UserError: it names the folder's experiment and seed.
    """
    seen = set()
    for run in runs:
        named = [getattr(run.benchmark, key, None) for key in ("kind", "task", "tasks")]
        place = json.dumps([run_name(run), run.seed, named])
        if place in seen:
            what = "runs that differ in more than a name can tell (without `experiment`, and in what changes a result)"
            raise expected("A sweep", what, f"two of {run_name(run)}, seed {run.seed}")
        seen.add(place)


def restore(saved: dict[str, Any]) -> ExperimentConfig:
    """The configuration of a run folder's `config.yaml`."""
    return configs.restore(ExperimentConfig, REGISTRIES, saved)


def non_default(config: ExperimentConfig) -> dict[str, Any]:
    """The options that differ from the defaults of the parts chosen, by dotted name."""
    parts = {registry.group: getattr(config, registry.group) for registry in REGISTRIES if not registry.many}
    watching = {f"diagnostics.{kind}": part for kind, part in (config.diagnostics or {}).items()}
    changed: dict[str, Any] = {f"{group}.kind": part.kind for group, part in watching.items()}
    for group, part in {**parts, **watching}.items():
        if part is not None:
            values, usual = configs.plain(part), configs.plain(type(part))
            names = {f"{group}.{name}": name for name, value in values.items() if value != usual[name]}
            changed |= {key: values[name] for key, name in names.items() if key not in FREE_KEYS}
    named_by_path = ("benchmark.task", "benchmark.tasks")
    return {key: value for key, value in changed.items() if key not in named_by_path}
