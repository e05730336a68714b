"""The only wiring: a configuration becomes parts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtrl.agents import AGENTS
from mtrl.core.errors import expected
from mtrl.core.memory import keep_freed_memory
from mtrl.core.types import Evaluation
from mtrl.envs import SUITES
from mtrl.experiment.config import ExperimentConfig, run_name
from mtrl.gradients import Methods
from mtrl.monitoring.run import run_path
from mtrl.training import TRAININGS
from mtrl.training.evaluation import Policy, greedy
from mtrl.training.loop import DATA


@dataclass
class Experiment:
    """The parts of one run, built from its configuration."""

    config: ExperimentConfig
    suite: Any = field(init=False)
    methods: Methods = field(init=False)
    agent: Any = field(init=False)
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = _device(config.device)
        torch.manual_seed(config.seed)
        self.suite = SUITES.build(config.benchmark)
        _check_fit(config, self.suite)
        self.methods = Methods(
            config.weighting,
            config.surgery,
            config.critic_weighting,
            config.critic_surgery,
            diagnostics=tuple((config.diagnostics or {}).values()),
            tasks=self.suite.tasks,
        )
        self.agent = AGENTS.build(
            config.agent,
            network=config.network,
            methods=self.methods,
            num_tasks=len(self.suite.tasks),
            device=self.device,
            seed=config.seed,
            **self.suite.sizes,
        )

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

    @property
    def policy(self) -> Policy:
        """The deterministic policy: (T, N, O) -> (T, N, A), or what the kind of training says it is."""
        make = getattr(TRAININGS.module(self.config.training.kind), "policy", None)
        return greedy(self.agent) if make is None else make(self.agent, self.suite)

    def evaluate(
        self, episodes: int, protocol: str, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Evaluation, dict[str, Any]]:
        """What the agent can do, and its JSON form with every choice of the protocol."""
        config, begin = self.config, time.perf_counter()
        result = TRAININGS.module(config.training.kind).evaluate(
            config.training,
            agent=self.agent,
            suite=self.suite,
            seed=config.seed,
            episodes=episodes,
            protocol=protocol,
            progress=progress,
        )
        facts = {"protocol": protocol, "seed": config.seed, "seconds": round(time.perf_counter() - begin, 3)}
        return result, {**facts, **self.suite.description(), **result.to_json(self.tasks)}

    def write_video(self, path: Path) -> str | None:
        """Film one episode of every task; where that cannot be done, one line that says what is missing."""
        film = getattr(self.suite, "film", None)
        return f"{self.suite.name} has no pictures." if film is None else film(self.policy, path, self.config.seed)


def _check_fit(config: ExperimentConfig, suite: Any) -> None:
    """Refuse training that the suite's data or the agent is not for, before anything is built or written.

    Raises:
        UserError: it names the kinds of training, or the agents, that do fit.
    """
    given = next((key for key in DATA if key in suite.sizes), "")
    classes = {kind: TRAININGS.config_class(kind) for kind in TRAININGS.kinds}
    fitting = [kind for kind, owner in classes.items() if owner.data == given]
    training, agent = config.training.kind, config.agent.kind
    if fitting and training not in fitting:
        raise expected("Option `training`", f"{' or '.join(fitting)} for benchmark {suite.name}", training)
    trained = {kind: AGENTS.config_class(kind).trainings for kind in AGENTS.kinds}
    if training not in trained[agent]:
        fitting = [kind for kind, trainings in trained.items() if training in trainings]
        raise expected("Option `agent`", f"{' or '.join(fitting)} with training={training}", agent)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise expected("Option `device`", "auto, cpu, or a GPU that PyTorch sees", name) from error
