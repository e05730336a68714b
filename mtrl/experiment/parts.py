"""Builds the parts of a run from a configuration. Parts are wired together only here."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtrl import configs
from mtrl.agents import AGENTS
from mtrl.core.cores import usable_device
from mtrl.core.errors import UserError, expected
from mtrl.core.memory import keep_freed_memory
from mtrl.core.registry import Registry, import_by_name
from mtrl.core.specs import GoalSpec
from mtrl.envs import SUITES
from mtrl.experiment.config import ExperimentConfig, restore, run_name
from mtrl.gradients import Methods
from mtrl.monitoring.run import run_path
from mtrl.training import TRAININGS
from mtrl.training.evaluation import Evaluation
from mtrl.training.trainer import Trainer


@dataclass
class Experiment:
    """The parts of one run, built from its configuration."""

    config: ExperimentConfig
    suite: Any = field(init=False)
    """The benchmark, a `core.suite.Suite`."""
    methods: Methods = field(init=False)
    agent: Any = field(init=False)
    trainer: Trainer = field(init=False)
    """The trainer, not yet started."""
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = usable_device(config.device)
        torch.manual_seed(config.seed)
        _check_fit(config)
        self.suite = SUITES.build(config.benchmark)
        self.methods = replace(_methods(config, self.suite), process_group=_process_group(config))
        self.agent = AGENTS.build(
            config.agent,
            network=config.network,
            methods=self.methods,
            spec=self.suite.spec,
            device=self.device,
            seed=config.seed,
        )
        self.trainer = TRAININGS.build(
            config.training, agent=self.agent, suite=self.suite, seed=config.seed, steps=config.steps
        )
        self.trainer.counted = counted_tasks(config, self.suite)
        self.trainer.rebuild = functools.partial(_rebuilt, configs.plain(config), config.imports)

    @property
    def tasks(self) -> list[str]:
        return list(self.suite.tasks)

    @functools.cached_property
    def name(self) -> str:
        """The experiment's name in the run's path."""
        return run_name(self.config)

    @property
    def path(self) -> Path:
        return run_path(self.config.runs, self.suite.name, self.name, self.config.seed)

    def evaluate(
        self, episodes: int, protocol: str, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Evaluation, dict[str, Any]]:
        """Evaluate the agent with `episodes` per task. Returns the result, and its JSON form with the protocol."""
        begin = time.perf_counter()
        result = replace(self.trainer.evaluate(episodes, protocol, progress), counted=self.trainer.counted)
        seconds = round(time.perf_counter() - begin, 3)
        facts: dict[str, Any] = {"protocol": protocol, "seed": self.config.seed, "seconds": seconds}
        if result.counted is not None:
            facts["mean_over"] = [self.tasks[t] for t in result.counted]
        return result, {**facts, **self.suite.description(), **result.to_json(self.tasks)}

    def write_video(self, path: Path) -> str | None:
        """Film one episode of every task. Returns None, or a line that says why this is impossible."""
        try:
            self.suite.film(self.trainer.policy, path, self.config.seed)
        except UserError as error:
            return str(error)
        except PermissionError as error:
            return f"{path} may not be written ({error.strerror})."
        return None


def _rebuilt(saved: dict[str, Any], imports: list[str]) -> tuple[Any, Any]:
    """Build the agent and the suite of a saved configuration again, on the CPU, in another process."""
    import_by_name(imports)
    config = replace(restore(saved), device="cpu", threads=1)
    if getattr(config.agent, "execution", None) == "captured":  # needs a GPU
        config.agent = replace(config.agent, execution="plain")
    again = Experiment(config)
    return again.agent, again.suite


def _methods(config: ExperimentConfig, suite: Any) -> Methods:
    return Methods(
        config.weighting,
        config.surgery,
        config.critic_weighting,
        config.critic_surgery,
        diagnostics=tuple(part for _, part in sorted((config.diagnostics or {}).items())),
        tasks=suite.tasks,
    )


def _process_group(config: ExperimentConfig) -> Any:
    """The `torch.distributed` processes that learn together with this one, if there are any.

    Raises:
        UserError: the agent cannot learn with others.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if not config.agent.divides_batches:
        fitting = [kind for kind in AGENTS.kinds if AGENTS.config_class(kind).divides_batches]
        raise expected("Option `agent`", f"{' or '.join(fitting)} where several processes learn", config.agent.kind)
    return dist.group.WORLD


def primary_tasks(config: ExperimentConfig, suite: Any) -> list[int]:
    """Indexes of the tasks that a gradient method names as primary; all tasks if none does."""
    primary = _methods(config, suite).primary()
    return list(range(suite.spec.num_tasks)) if primary is None else primary


def counted_tasks(config: ExperimentConfig, suite: Any) -> list[int] | None:
    """Indexes of the tasks over which means are taken: the primary tasks (by default all) except `spec.uncounted`.

    All primary tasks count if that leaves none. Returns None where all tasks count, or where tasks are goals, which are
    evaluated in groups.
    """
    if isinstance(suite.spec, GoalSpec):
        return None
    chosen = primary_tasks(config, suite)
    counted = [t for t in chosen if suite.tasks[t] not in suite.spec.uncounted] or chosen
    return counted if len(counted) < suite.spec.num_tasks else None


def _check_fit(config: ExperimentConfig) -> None:
    """Check, before anything is built, that the training loop and the agent work with the benchmark's data.

    Raises:
        UserError: one of them does not; the message names those that do.
    """
    spec, training = config.benchmark.spec_type, config.training.kind
    _check_choice(TRAININGS, training, lambda c: spec in c.specs, f"for benchmark {config.benchmark.name}")
    fits: Callable[[Any], bool] = lambda c: spec in c.specs and training in c.trainings  # noqa: E731
    _check_choice(AGENTS, config.agent.kind, fits, f"with training={training}")


def _check_choice(registry: Registry, found: str, fits: Callable[[Any], bool], where: str) -> None:
    if not fits(registry.config_class(found)):
        fitting = [kind for kind in registry.kinds if fits(registry.config_class(kind))]
        raise expected(f"Option `{registry.group}`", f"{' or '.join(fitting) or 'one that fits'} {where}", found)
