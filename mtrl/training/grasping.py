"""Training on attempts to grasp in two domains. Evaluations search for the best commands, and execute them.

A step is one attempt in each domain. The search is the cross-entropy method, as in Fang et al. 2018: each round draws
commands, and fits a normal distribution to those with the highest scores. The next round draws from this distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.specs import GraspSpec, Spec
from mtrl.core.suite import EPISODES
from mtrl.core.types import BoolArray, FloatArray
from mtrl.data.grasps import WANTED
from mtrl.data.images import ImageData, normalised
from mtrl.training import supervised
from mtrl.training.evaluation import Evaluation, Progress
from mtrl.training.supervised import EVALUATION_ROWS, SupervisedTrainer

SAMPLES, ROUNDS, ELITE = 64, 3, 6
"""Commands in a round, number of rounds, and best commands to which the next round's distribution is fitted."""


@dataclass
class Config(supervised.Config):
    """Steps are attempts in each domain."""

    specs: ClassVar[tuple[type[Spec], ...]] = (GraspSpec,)

    kind: str = "grasping"
    evaluation_episodes: int = 30
    """Grasps in each domain in an evaluation during training."""
    final_episodes: int = 60
    """Grasps in each domain in the evaluation at the end; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not self.single_task, "training.single_task", "empty with training=grasping", self.single_task)

    def evaluates(self, episodes: int) -> str:
        return f"{episodes} grasps in each domain"


class GraspBenchmark(Protocol):
    """What the training loop needs of a benchmark."""

    spec: GraspSpec
    reach: FloatArray
    """(2, 3): the smallest and the largest command."""
    objects: int
    """Objects on each table."""

    @property
    def data(self) -> ImageData: ...

    def attempts(self, domain: int, stream: str) -> Mapping[str, NDArray[Any]]: ...

    def picture(self, arrays: Any, table: int, wanted: int) -> Tensor:
        """A table's picture with the mask of the wanted object, uint8 (4, H, W). arrays: from `attempts`."""
        ...

    def crops(self, domain: int, pictures: Tensor, commands: Tensor) -> Tensor:
        """The crops (M, P, 4, size, size) of M pictures (M, 4, H, W) around P commands each (M, P, 3)."""
        ...

    def execute(self, domain: int, table: int, command: FloatArray) -> int:
        """Execute a command (3,) on a test table. Returns the index of the lifted object, or −1 if there is none."""
        ...


@dataclass(frozen=True)
class Grasps(Evaluation):
    """E grasps in each of T domains."""

    success: BoolArray
    """(T, E): whether the wanted object was lifted."""
    lifted: BoolArray
    """(T, E): whether any object was lifted."""
    auc: FloatArray
    """(T,): the area under the ROC curve of the scores of all attempts on the test tables."""

    @property
    def per_task(self) -> dict[str, FloatArray]:
        return {"success": self.success.mean(1), "lifted": self.lifted.mean(1), "auc": self.auc}

    def to_json(self, tasks: Sequence[str]) -> dict[str, Any]:
        named = {f"mean_{name}": values for name, values in self.per_task.items()}
        rows = {
            task: {name: float(values[t]) for name, values in named.items()} | {"success": self.success[t].tolist()}
            for t, task in enumerate(tasks)
        }
        facts = {"headline": self.headline, "episodes": self.success.shape[1]}
        return facts | {name: self.mean(values) for name, values in named.items()} | {"tasks": rows}


def search(score: Callable[[Tensor], Tensor], reach: FloatArray, problems: int, generator: torch.Generator) -> Tensor:
    """The cross-entropy method for M problems at once. Returns the best command drawn for each, (M, 3).

    Args:
        score: commands (M, P, 3) -> (M, P); higher is better.
        reach: (2, 3), the smallest and the largest command. The first round draws uniformly between them.
        problems: M
        generator: on the CPU.
    """
    low, high = torch.from_numpy(reach).float()
    commands = low + (high - low) * torch.rand(problems, SAMPLES, 3, generator=generator)
    best, value = commands[:, 0], torch.full((problems,), -torch.inf)
    for left in reversed(range(ROUNDS)):
        scores = score(commands)
        top = scores.topk(ELITE, 1)
        elite = commands.gather(1, top.indices.unsqueeze(-1).expand(-1, -1, 3))
        better = top.values[:, 0] > value
        best, value = torch.where(better.unsqueeze(-1), elite[:, 0], best), torch.maximum(top.values[:, 0], value)
        if left:
            noise = torch.randn(problems, SAMPLES, 3, generator=generator)
            spread, mean = torch.std_mean(elite, 1, keepdim=True)
            commands = (mean + spread * noise).clamp(low, high)
    return best


def area_under_curve(scores: FloatArray, positive: BoolArray) -> float:
    """The area under the ROC curve of scores (n,), where `positive` (n,) marks the positives.

    It is the share of pairs of a positive and a negative in which the positive has the higher score. Ties count half.
    NaN if there is no such pair.
    """
    difference = scores[positive][:, None] - scores[~positive][None]
    return float((np.sign(difference) / 2 + 0.5).mean()) if difference.size else float("nan")


def pairs(episodes: int, tables: int, objects: int) -> list[tuple[int, int]]:
    """The table and the wanted object of each episode. All pairs occur before any of them occurs again."""
    return [(e % tables, (e % tables + e // tables) % objects) for e in range(episodes)]


class GraspTrainer(SupervisedTrainer):
    """Trains a grasping network on attempts.

    The seed and the numbers of rollbacks and updates determine the next batch.
    """

    unit = "attempts"

    suite: Any
    """A `GraspBenchmark`."""

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Grasps:
        """Execute the best commands for `episodes` objects on each domain's test tables. Score all test attempts.

        `protocol` has no effect.

        Raises:
            UserError: `episodes` is not positive.
        """
        check(episodes >= 1, EPISODES, "a positive integer", episodes)
        arrays = [self.suite.attempts(domain, "test") for domain in range(self.suite.spec.num_tasks)]
        tables = len(arrays[0]["rgb"])
        chosen = pairs(episodes, tables, self.suite.objects)
        pictures = [torch.stack([self.suite.picture(domain, *pair) for pair in chosen]) for domain in arrays]
        commands = self._commands(torch.stack(pictures))
        found = np.zeros(commands.shape[:2], np.int64)
        for done, (domain, e) in enumerate(np.ndindex(found.shape), 1):
            found[domain, e] = self.suite.execute(domain, chosen[e][0], commands[domain, e])
            if progress is not None:
                progress(done, found.size)
        return Grasps(found == [wanted for _, wanted in chosen], found >= 0, self._auc())

    def _commands(self, pictures: Tensor) -> FloatArray:
        """The best commands (T, M, 3) for pictures (T, M, 4, H, W). Each depends only on picture, domain and seed."""
        data = self.suite.data.to(self.agent.device)
        found = []
        for seen in pictures.unbind(1):

            def score(commands: Tensor, seen: Tensor = seen) -> Tensor:
                each = enumerate(zip(seen.split(1), commands.split(1), strict=True))
                cut = torch.cat([self.suite.crops(domain, *parts) for domain, parts in each]).to(self.agent.device)
                return self.agent.predict(normalised(cut, data.mean, data.deviation)).cpu()

            found.append(search(score, self.suite.reach, len(seen), torch.Generator().manual_seed(self.seed)))
        return torch.stack(found, 1).double().numpy()

    def _auc(self) -> FloatArray:
        data = self.suite.data.to(self.agent.device)
        test = data.test
        parts = [normalised(test.pool[rows], data.mean, data.deviation) for rows in test.rows.split(EVALUATION_ROWS, 1)]
        scores = torch.cat([self.agent.predict(part) for part in parts], 1).cpu().numpy()
        found = test.labels.cpu().numpy()
        each = zip(scores, found, test.counts.tolist(), strict=True)
        return np.array([area_under_curve(s[:n], f[:n] == WANTED) for s, f, n in each])

    def pictures(self, example: int = 0) -> dict[str, Any]:
        """For each domain, a test table and the crop around the command found, side by side: (H, 2 W, 3).

        The wanted object is the one with index 0, and is brighter than the rest.
        """
        tests = [self.suite.attempts(domain, "test") for domain in range(self.suite.spec.num_tasks)]
        pictures = torch.stack([self.suite.picture(test, example, 0) for test in tests])
        commands = torch.from_numpy(self._commands(pictures.unsqueeze(1)))
        found = {}
        for domain, name in enumerate(self.suite.spec.tasks):
            cut = self.suite.crops(domain, pictures[domain, None], commands[domain, None])[0]
            large = torch.nn.functional.interpolate(cut, pictures.shape[2:])[0]
            shaded = [(part[:3] * (0.5 + 0.5 * part[3:] / 255)).to(torch.uint8) for part in (pictures[domain], large)]
            found[f"command/{name}"] = torch.cat(shaded, 2).movedim(0, -1).numpy()
        return found

    @property
    def policy(self) -> Callable[[NDArray[np.uint8]], FloatArray]:
        """Pictures with the wanted object's mask, uint8 (T, M, 4, H, W) -> commands (T, M, 3).

        Colours are normalised by the statistics of the training attempts, which are made if they are missing.
        """
        return lambda pictures: self._commands(torch.from_numpy(pictures))

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> NDArray[Any]:
        """A picture with the wanted object's mask, uint8 (4, H, W) -> a command (3,).

        A command is x and y in metres, and the turn about the vertical in radians.

        Raises:
            UserError: the observation has another shape or type.
        """
        picture = np.asarray(observation)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != 4:
            found = f"{picture.dtype} of shape {picture.shape}"
            raise expected("Observation", "a uint8 picture with a mask, of shape (4, height, width)", found)
        pictures = np.broadcast_to(picture, (self.suite.spec.num_tasks, 1, *picture.shape)).copy()
        return self._commands(torch.from_numpy(pictures))[task or 0, 0]


def build(config: Config, **parts: Any) -> GraspTrainer:
    return GraspTrainer(config, **parts)
