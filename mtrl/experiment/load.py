"""Loads a run's folder, evaluates it, and uses its policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.core.config import check, check_choice
from mtrl.core.cores import torch_threads
from mtrl.core.errors import expected, reading
from mtrl.core.specs import GoalSpec
from mtrl.core.types import FloatArray
from mtrl.data.demos import Frame
from mtrl.experiment.config import restore
from mtrl.experiment.parts import Experiment
from mtrl.monitoring import checkpoints
from mtrl.monitoring.progress import Counter
from mtrl.monitoring.run import RunFolder

CHECKPOINTS = ("newest", "best")


def load(path: Path | str, device: str = "cpu", checkpoint: str = CHECKPOINTS[0]) -> tuple[Experiment, RunFolder, int]:
    """The experiment of a run's folder with its trained networks, the folder, and the step of these networks.

    The experiment can act and evaluate, but not continue training. PyTorch's threads and random numbers stay the same.

    checkpoint: newest (the run's `policy.pt` if no checkpoint is left), or best: the policy with the best evaluation
        during training (`training.evaluate_every`), the first of several equal ones.

    Raises:
        UserError: there is no such run, it has no such checkpoint, or the checkpoint does not fit its configuration.
    """
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    folder = RunFolder.load(path)
    config = restore(folder.config)
    config.device = device
    config.agent = config.agent.for_acting()
    found, policy = None, folder.policy
    if checkpoint == "newest":
        found = checkpoints.newest(folder.checkpoints, with_replay=False)
    elif (policy := checkpoints.best(folder.checkpoints)) is None:
        raise expected(f"Run {folder.path}", "a run with evaluations during training (training.evaluate_every)", "none")
    if found is None and not policy.exists():
        raise expected(f"Run {folder.path}", "a run with a checkpoint or its policy.pt", "none")
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch_threads(torch.get_num_threads()), torch.random.fork_rng(devices):
        experiment = Experiment(config)
    state = found.state if found else checkpoints.load_policy(policy)
    with reading(found.path if found else policy, f"one that fits {folder.path}/config.yaml", "Checkpoint"):
        if found:
            state = state["trainer"]
            experiment.agent.load_state_dict(state["agent"])
        else:
            experiment.agent.load_policy_state(state["agent"])
        return experiment, folder, int(state["step"])


def evaluate_run(
    path: Path | str,
    episodes: int,
    protocol: str = "goals",
    device: str = "cpu",
    keep: bool = True,
    checkpoint: str = CHECKPOINTS[0],
) -> tuple[Experiment, RunFolder, dict[str, Any]]:
    """Evaluate a run's newest or best checkpoint (see `load`). Returns the experiment, the folder and the result.

    Args:
        episodes: how many episodes of each task to play.
        protocol: how goals are chosen: goals or upstream (see `mtrl.training.evaluation`).
        keep: whether to write the result to the run's `evaluations/`.

    Raises:
        UserError: as in `load`, or the benchmark does not allow these `episodes` or this `protocol`.
    """
    check(episodes >= 1, "--episodes", "a positive integer", episodes)
    experiment, folder, step = load(path, device, checkpoint)
    with torch_threads(experiment.config.threads or torch.get_num_threads()):
        _, facts = experiment.evaluate(episodes, protocol, Counter("episodes"))
    facts = {"step": step, **facts}
    if keep:
        _keep(folder, step, facts)
    return experiment, folder, facts


def _keep(folder: RunFolder, step: int, facts: dict[str, Any]) -> None:
    try:
        folder.write_evaluation(step, facts, "_evaluate")
    except OSError as error:
        print(f"mtrl: the evaluation is not kept in {folder.evaluations} ({error.strerror}).", file=sys.stderr)


class LoadedPolicy:
    """A trained policy: `act(observation, task)` returns the output of the deterministic policy.

    Depending on the run, this is an action, a keyframe, a class, a dense prediction or a command to a gripper.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.tasks = experiment.tasks

    def act(
        self,
        observation: FloatArray | NDArray[np.uint8] | Frame,
        task: str | int | None = None,
        stage: int = 0,
        *,
        goal: Any = None,
    ) -> FloatArray | NDArray[np.int64]:
        """observation (O,) or (B, O) of one task -> action (A,) or (B, A) in [-1, 1].

        Args:
            observation: for a keyframe task, a `Frame`; the result is then the next keyframe (8,). For a task on
                images, uint8 (C, H, W) or (B, C, H, W); the result is a class () or c numbers of each pixel (c, H, W)
                for each. For grasping, a uint8 picture and mask (4, H, W); the result is x, y (metres), turn (radians).
            task: its name or index, needed unless there is a `goal`.
            stage: for a keyframe task, the number of keyframes already reached.
            goal: for a benchmark whose tasks are goals, any goal in its range; for pushing, (4,) in metres.

        Raises:
            UserError: an unknown task, a goal out of its range, or an observation of another size.
        """
        suite = self._experiment.suite
        if goal is not None and not isinstance(suite.spec, GoalSpec):
            raise expected("A goal", f"left out for {suite.name}, whose tasks are no goals", goal)
        index = self._index(task) if goal is None else None
        return self._experiment.trainer.act(observation, index, stage, goal)

    def _index(self, task: str | int | None) -> int:
        index = self.tasks.index(task) if task in self.tasks else task
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.tasks):
            raise expected("Task", f"one of {', '.join(self.tasks)}, or an index below {len(self.tasks)}", task)
        return int(index)


def load_policy(path: Path | str, device: str = "cpu", checkpoint: str = CHECKPOINTS[0]) -> LoadedPolicy:
    """The policy of a run.

    checkpoint: newest, or best: the policy with the best evaluation during training.

    Raises:
        UserError: there is no such run, it has no such checkpoint, or the checkpoint does not fit its configuration.
    """
    return LoadedPolicy(load(path, device, checkpoint)[0])
