"""What can be done with a run folder: load it, evaluate it, use its policy."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.errors import UserError, expected
from mtrl.core.types import FloatArray
from mtrl.data.demos import Frame
from mtrl.experiment.config import restore
from mtrl.experiment.parts import Experiment
from mtrl.monitoring import checkpoints
from mtrl.monitoring.progress import counter
from mtrl.monitoring.run import RunFolder


def load(path: Path | str, device: str = "cpu") -> tuple[Experiment, RunFolder, int]:
    """The experiment of a run folder with its newest networks, the folder, and the step they are of.

    Raises:
        UserError: there is no such run, it has no checkpoint, or one that does not fit its configuration.
    """
    folder = RunFolder.load(path)
    config = restore(folder.config)
    config.device = device
    if hasattr(config.agent, "execution"):
        config.agent.execution = "plain"  # no updates follow, and the device may be another
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


class LoadedPolicy:
    """A trained policy: `act(observation, task)` gives the deterministic action, or the class of an image."""

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
            observation: of a keyframe task, a `Frame`; the action is then the next keyframe (8,). Of a classification
                task, uint8 images (C, H, W) or (B, C, H, W); what is given is then their classes, () or (B,).
            task: its name or index.
            stage: of a keyframe task, how many keyframes are done.
            goal: where tasks are goals, one of them, known or new, instead.

        Raises:
            UserError: an unknown task, a goal out of its range, or an observation of another size.
        """
        suite = self._experiment.suite
        if "image_shape" in suite.sizes:
            return self._classes(observation, self._index(task))
        size = getattr(suite, "observation_size", None)
        if size is None or isinstance(observation, Frame):
            return self._keyframe(observation, self._index(task), stage)
        rows = np.atleast_2d(np.asarray(observation, np.float32))
        if rows.ndim != 2 or rows.shape[1] != size:
            raise expected("Observation", f"of size {size}", tuple(np.shape(observation)))
        if goal is not None:
            action = self._policy(rows[None], self._goal(goal))[0]
        else:
            index = self._index(task)
            every = np.zeros((len(self.tasks), *rows.shape), np.float32)
            every[index] = rows
            action = self._policy(every)[index]
        return action if np.ndim(observation) == 2 else action[0]

    @functools.cached_property
    def _policy(self) -> Any:
        return self._experiment.policy

    def _index(self, task: str | int | None) -> int:
        index = self.tasks.index(task) if task in self.tasks else task
        if not isinstance(index, int) or not 0 <= index < len(self.tasks):
            raise expected("Task", f"one of {', '.join(self.tasks)}", task)
        return index

    def _goal(self, goal: Any) -> Any:
        subset_of = getattr(self._experiment.suite, "subset_of", None)
        if subset_of is None:
            raise expected("A goal", f"left out for {self._experiment.suite.name}, whose tasks have names", goal)
        return subset_of([goal])

    def _keyframe(self, frame: Any, index: int, stage: int) -> FloatArray:
        if not isinstance(frame, Frame) or "cameras" not in self._experiment.suite.sizes:
            raise expected("Observation", f"what {self._experiment.suite.name} shows", type(frame).__name__)
        return self._policy([[frame]] * len(self.tasks), stage)[index, 0]

    def _classes(self, images: Any, index: int) -> NDArray[np.int64]:
        sizes = self._experiment.suite.sizes
        shape, rows = tuple(sizes["image_shape"]), np.asarray(images)
        if rows.dtype != np.uint8 or rows.shape[-3:] != shape or rows.ndim > 4:
            raise expected("Observation", f"uint8 images of shape {shape}", f"{rows.dtype} of shape {rows.shape}")
        batch = rows.reshape(1, -1, *shape).repeat(1 if sizes["shared_input"] else len(self.tasks), axis=0)
        classes = np.asarray(self._policy(batch), np.int64)[index]
        return classes if rows.ndim == 4 else classes[0]


def load_policy(path: Path | str, device: str = "cpu") -> LoadedPolicy:
    """The policy of a run folder's newest checkpoint."""
    return LoadedPolicy(load(path, device)[0])
