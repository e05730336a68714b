"""The only wiring: a configuration becomes parts, and parts become a run."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl import configs
from mtrl.agents import AGENTS
from mtrl.core.config import check
from mtrl.core.errors import UserError, expected
from mtrl.core.memory import keep_freed_memory
from mtrl.core.types import FloatArray, Metrics
from mtrl.data.replay import ReplayBuffer
from mtrl.envs import SUITES
from mtrl.gradients import SURGERIES, WEIGHTINGS
from mtrl.monitoring import checkpoints, plots
from mtrl.monitoring.metrics import MetricLog, read_metrics
from mtrl.monitoring.progress import Progress, counter
from mtrl.monitoring.random_state import random_state, restore_random_state
from mtrl.monitoring.run import RunFolder, experiment_name, run_path
from mtrl.networks import NETWORKS
from mtrl.training import TRAININGS
from mtrl.training.evaluation import EvaluationResult, evaluate
from mtrl.training.off_policy import Hooks, OffPolicyTrainer

REGISTRIES = (SUITES, NETWORKS, WEIGHTINGS, SURGERIES, AGENTS, TRAININGS)
FREE_KEYS = ("device", "threads", "runs", "video", "training.log_every", "training.checkpoint_every")
"""What may change between two starts of the same run: it does not change the result."""
_SUCCESS, _RETURN = "train/success", "train/return"


@dataclass
class ExperimentConfig:
    """One run. Each group is the configuration of one part."""

    benchmark: Any = None
    network: Any = None
    weighting: Any = None
    surgery: Any = None
    agent: Any = None
    training: Any = None
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


@dataclass
class Experiment:
    """The parts of one run, built from its configuration."""

    config: ExperimentConfig
    suite: Any = field(init=False)
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
        self.agent = AGENTS.build(
            config.agent,
            network=config.network,
            weighting=config.weighting,
            surgery=config.surgery,
            num_tasks=len(self.suite.tasks),
            tasks=self.suite.tasks,
            observation_size=self.suite.observation_size,
            action_size=self.suite.action_size,
            device=self.device,
            seed=config.seed,
        )

    @property
    def tasks(self) -> list[str]:
        return list(self.suite.tasks)

    @functools.cached_property
    def name(self) -> str:
        """The experiment's name in the run's path."""
        config = self.config
        return config.experiment or experiment_name(
            config.network.kind, config.weighting.kind, config.surgery.kind, _non_default(config)
        )

    @property
    def path(self) -> Path:
        return run_path(self.config.runs, self.suite.name, self.name, self.config.seed)

    def policy(self, observation: FloatArray) -> FloatArray:
        """The deterministic policy: (T, N, O) -> (T, N, A)."""
        return self.agent.act(torch.from_numpy(np.ascontiguousarray(observation)), explore=False).cpu().numpy()

    def evaluate(self, episodes: int, protocol: str, progress: Callable[[int, int], None] | None = None) -> Any:
        """Evaluation result and its JSON form, with every choice of the protocol."""
        seed = self.config.seed
        envs = self.suite.make_evaluation_envs(seed, episodes, protocol)
        begin = time.perf_counter()
        try:
            result = evaluate(self.policy, envs, episodes, progress)
        finally:
            envs.close()
        facts = {"protocol": protocol, "seed": seed, "seconds": round(time.perf_counter() - begin, 3)}
        return result, {**facts, **self.suite.description(), **result.to_json(self.tasks)}

    def write_video(self, path: Path) -> str | None:
        """Film one episode of every task; where that cannot be done, one line that says what is missing."""
        film = getattr(self.suite, "film", None)
        return f"{self.suite.name} has no pictures." if film is None else film(self.policy, path, self.config.seed)


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """The configuration that `key=value` overrides describe; `task=` is short for `benchmark.task=`."""
    short = [f"benchmark.{o}" if o.partition("=")[0] in ("task", "tasks") else o for o in overrides]
    return configs.compose(ExperimentConfig, REGISTRIES, short)


def _non_default(config: ExperimentConfig) -> dict[str, Any]:
    """The options that differ from the defaults of the parts chosen, by dotted name."""
    changed: dict[str, Any] = {}
    for registry in REGISTRIES:
        part = configs.plain(getattr(config, registry.group))
        default = configs.plain(registry.config_class(part["kind"]))
        names = {f"{registry.group}.{name}": (value, default[name]) for name, value in part.items()}
        changed |= {name: value for name, (value, usual) in names.items() if value != usual and name not in FREE_KEYS}
    named_by_path = ("benchmark.task", "benchmark.tasks")
    return {key: value for key, value in changed.items() if key not in named_by_path}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise expected("Option `device`", "auto, cpu, or a GPU that PyTorch sees", name) from error


class Session:
    """A training run on disk: the experiment, its folder, and what is reported where."""

    def __init__(self, experiment: Experiment, folder: RunFolder) -> None:
        self.experiment, self.folder = experiment, folder
        config = experiment.config
        suite = experiment.suite
        training = config.training
        self.envs = suite.make_envs(config.seed, training.envs_per_task)
        self.replay = ReplayBuffer(
            len(suite.tasks),
            min(training.replay_capacity, config.steps + training.envs_per_task),
            suite.observation_size,
            suite.action_size,
            experiment.device,
        )
        self.trainer = OffPolicyTrainer(
            training,
            experiment.agent,
            self.envs,
            self.replay,
            batch_size=config.agent.batch_size,
            action_size=suite.action_size,
        )
        self.resumed_from = self._resume()
        self.log = MetricLog(folder, self.resumed_from)
        self.progress = Progress(config.steps, self.trainer.step)
        self._logged = (self.trainer.step, self.trainer.updates, dict(self.trainer.seconds), time.perf_counter())

    def _resume(self) -> int | None:
        checkpoint = checkpoints.latest(self.folder.checkpoints, with_replay=True)
        if checkpoint is None:
            return None
        state = checkpoints.load(checkpoint)
        self.trainer.load_state_dict(state["trainer"])
        self.replay.load_state_dict(checkpoints.load_replay(checkpoint))
        restore_random_state(state["random"])
        return self.trainer.step

    def run(self) -> dict[str, Any]:
        """Train to the end, or to an interrupt, and return the final result."""
        hooks = Hooks(log=self._log, evaluate=self._evaluate, save=self._save, progress=self._show)
        with self.log, contextlib.closing(self.envs):
            try:
                with self.progress:
                    self.trainer.run(self.experiment.config.steps, hooks)
            finally:
                self._save(self.trainer)
            return self._finish()

    def _show(self, trainer: OffPolicyTrainer) -> None:
        self.progress.update(trainer.step, trainer.updates)

    def _log(self, trainer: OffPolicyTrainer, metrics: Metrics) -> None:
        step, updates, seconds, then = self._logged
        now = time.perf_counter()
        elapsed = now - then
        tasks = self.experiment.tasks
        scalars = {
            "throughput/env_steps_per_second": (trainer.step - step) * len(tasks) / elapsed,
            "throughput/updates_per_second": (trainer.updates - updates) / elapsed,
            **{f"throughput/share_{k}": (v - seconds[k]) / elapsed for k, v in trainer.seconds.items()},
            "train/updates": trainer.updates,
        }
        per_task: dict[str, Any] = trainer.episodes.report()
        matrices: dict[str, Any] = {}
        for name, value in metrics.items():
            array = value.detach().double().cpu().numpy()
            (scalars, per_task, matrices)[array.ndim][name] = array.item() if array.ndim == 0 else array
        for name in ("success", "return"):
            values = per_task[f"train/{name}"]
            if np.isfinite(values).any():
                scalars[f"train/mean_{name}"] = float(np.nanmean(values))
        self.log.write(trainer.step, scalars, per_task, tasks, matrices)
        self.progress.update(trainer.step, trainer.updates, scalars.get("train/mean_success"))
        self._logged = (trainer.step, trainer.updates, dict(trainer.seconds), time.perf_counter())

    def _evaluate(self, trainer: OffPolicyTrainer) -> None:
        training = self.experiment.config.training
        result, facts = self.experiment.evaluate(training.evaluation_episodes, training.protocol)
        self._record(trainer.step, result, facts)

    def _record(self, step: int, result: EvaluationResult, facts: dict[str, Any]) -> None:
        self.folder.write_evaluation(step, {"step": step, **facts})
        per_task = {"evaluation/success": result.success_rate, "evaluation/return": result.returns.mean(1)}
        scalars = {
            "evaluation/mean_success": float(result.success.mean()),
            "evaluation/mean_return": float(result.returns.mean()),
        }
        self.log.write(step, scalars, per_task, self.experiment.tasks)

    def _save(self, trainer: OffPolicyTrainer) -> None:
        state = {"trainer": trainer.state_dict(), "random": random_state()}
        checkpoints.save(self.folder.checkpoints, trainer.step, state, self.replay.state_dict())

    def _finish(self) -> dict[str, Any]:
        config, trainer = self.experiment.config, self.trainer
        episodes, protocol = config.training.final_episodes, config.training.protocol
        print(f"Evaluating: {episodes} episodes of each of {len(self.experiment.tasks)} tasks.", flush=True)
        result, facts = self.experiment.evaluate(episodes, protocol, counter("episodes"))
        self._record(trainer.step, result, facts)
        final = {
            "steps_per_task": trainer.step,
            "steps_total": trainer.step * len(self.experiment.tasks),
            "updates": trainer.updates,
            "reported": "final policy, no maximum over training",
            "training_seconds": {k: round(v, 1) for k, v in trainer.seconds.items()},
            "config": configs.plain(config),
            **facts,
        }
        self.folder.finish(final)
        plot_runs([self.folder.path])
        return final


def train(config: ExperimentConfig) -> tuple[Experiment, RunFolder, dict[str, Any]]:
    """Train, or go on with, or just report the run that the configuration describes."""
    experiment = Experiment(config)
    saved = configs.plain(config)
    with RunFolder.open(experiment.path, saved, ignore=FREE_KEYS) as folder:
        if folder.status == "finished" and folder.result is not None:
            return experiment, folder, folder.result
        session = Session(experiment, folder)
        if session.resumed_from is not None:
            print(f"Going on from step {session.resumed_from} of {folder.path}.", flush=True)
        return experiment, folder, session.run()


def load(path: Path | str, device: str = "cpu") -> tuple[Experiment, RunFolder, int]:
    """The experiment of a run folder with its newest networks, the folder, and the step they are of.

    Raises:
        UserError: there is no such run, it has no checkpoint, or one that does not fit its configuration.
    """
    folder = RunFolder.load(path)
    config = configs.restore(ExperimentConfig, REGISTRIES, folder.config)
    config.device = device
    checkpoint = checkpoints.latest(folder.checkpoints)
    if checkpoint is None:
        raise expected(f"Run {folder.path}", "a run with at least one checkpoint", "none")
    experiment = Experiment(config)
    state = checkpoints.load(checkpoint)
    try:
        experiment.agent.load_state_dict(state["trainer"]["agent"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"Checkpoint {checkpoint} should fit {folder.path}/config.yaml. Found: {reason}") from error
    return experiment, folder, state["trainer"]["step"]


def evaluate_run(
    path: Path | str, episodes: int, protocol: str = "goals", device: str = "cpu"
) -> tuple[Experiment, RunFolder, dict[str, Any]]:
    """Evaluate a run's newest checkpoint and keep the result in its `evaluations/`."""
    check(episodes >= 1, "--episodes", "a positive integer", episodes)
    experiment, folder, step = load(path, device)
    _, facts = experiment.evaluate(episodes, protocol, counter("episodes"))
    facts = {"step": step, **facts}
    folder.write_evaluation(step, facts)
    return experiment, folder, facts


def parameter_counts(benchmark: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For every architecture: its width and depth, and the trained numbers of actor and twin critics."""
    rows = []
    for kind in NETWORKS.kinds:
        experiment = Experiment(compose([f"benchmark={benchmark}", f"network={kind}", "device=cpu", *options]))
        actor, critic, network = experiment.agent.actor, experiment.agent.critic, experiment.config.network
        sizes = [sum(p.numel() for p in d.values()) for d in (actor.shared, actor.own)]
        critics = sum(p.numel() for p in critic.parameters())
        row = {"kind": kind, "width": network.width, "depth": network.depth, "actor": sum(sizes)}
        rows.append(row | {"shared": sizes[0], "owned": sizes[1], "critics": critics})
    return rows


def plot_runs(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Draw one run's learning curves, or several experiments against each other, seeds together."""
    folders = [RunFolder.load(path) for path in paths]
    rows = [read_metrics(folder.metrics) for folder in folders]
    if len(folders) == 1:
        tasks = SUITES.build(configs.restore(ExperimentConfig, REGISTRIES, folders[0].config).benchmark).tasks
        return plots.learning_curves(
            rows[0], list(tasks), output or folders[0].path / "learning_curves.png", success=_SUCCESS, returns=_RETURN
        )
    groups: dict[str, list[Any]] = {}
    for folder, run in zip(folders, rows, strict=True):
        groups.setdefault(folder.path.resolve().parent.name, []).append(run)
    return plots.compare_runs(groups, output or Path("comparison.png"), success=_SUCCESS)


class LoadedPolicy:
    """A trained policy: `act(observation, task)` gives the deterministic action."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.tasks = experiment.tasks

    def act(self, observation: FloatArray, task: str | int) -> FloatArray:
        """observation (O,) or (B, O) of one task, by name or index -> action (A,) or (B, A) in [-1, 1]."""
        index = self.tasks.index(task) if task in self.tasks else task
        if not isinstance(index, int) or not 0 <= index < len(self.tasks):
            raise expected("Task", f"one of {', '.join(self.tasks)}", task)
        rows = np.atleast_2d(np.asarray(observation, np.float32))
        size = self._experiment.suite.observation_size
        if rows.ndim != 2 or rows.shape[1] != size:
            raise expected("Observation", f"of size {size}", tuple(np.shape(observation)))
        every = np.zeros((len(self.tasks), *rows.shape), np.float32)
        every[index] = rows
        action = self._experiment.policy(every)[index]
        return action if np.ndim(observation) == 2 else action[0]


def load_policy(path: Path | str, device: str = "cpu") -> LoadedPolicy:
    """The policy of a run folder's newest checkpoint."""
    return LoadedPolicy(load(path, device)[0])
