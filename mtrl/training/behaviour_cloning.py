"""Behaviour cloning: updates on batches of cached demonstrations. Evaluations play episodes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mtrl.core.config import option, path_option
from mtrl.core.errors import UserError, expected
from mtrl.core.specs import KeyframeSpec, Spec
from mtrl.core.types import FloatArray, Metrics
from mtrl.data.demo_cache import DemoCache, KeyframeBatch, KeyframeObservation
from mtrl.data.demos import Frame
from mtrl.data.keyframe_envs import KeyframeEnvs
from mtrl.data.priority import Priorities, draw_uniform
from mtrl.data.shift import shifted
from mtrl.monitoring.attention import attention_image
from mtrl.training.evaluation import Evaluation, Progress
from mtrl.training.keyframe_evaluation import Observer, play
from mtrl.training.trainer import TrainedAgent, Trainer, TrainingConfig


@dataclass
class Config(TrainingConfig):
    """A step is one update of all tasks."""

    specs: ClassVar[tuple[type[Spec], ...]] = (KeyframeSpec,)

    kind: str = "behaviour_cloning"
    log_every: int = 50
    """Updates between two rows of metrics."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints. One is also saved at the end and on an interrupt."""
    final_episodes: int = 100
    """Episodes per task in the evaluation at the end; 0 for none (the Auto-λ paper: 100)."""
    cache: str = path_option("demos", changes_results=True)
    """Folder of all caches of demonstrations. That of a suite is `<cache>/<suite>`, as `mtrl demos` writes it."""
    demos: int | None = option(None, "a positive integer")
    """Demonstrations of each task to learn from; all if not given (the Auto-λ paper: 100)."""
    priority: bool = False
    """Draw each task's samples with probabilities that grow with their last losses (prioritised replay)."""
    priority_alpha: float = option(0.6, "0 or more")
    """With `priority`: exponent of a sample's last loss in its probability; 0 for uniform sampling."""
    priority_beta: float = option(0.4, "in [0, 1]")
    """With `priority`: exponent of the weights that correct the losses for the sampling, from 0 (none) to 1 (full)."""
    evaluation_copies: int = option(5, "a positive integer")
    """Episodes of each task that evaluations play in parallel."""
    shift: int = option(0, "0 or more")
    """The most pixels by which a sample's pictures and points are shifted at random, separately for each camera."""


class Agent(TrainedAgent, Protocol):
    """What the training loop needs of an agent."""

    def act(self, observation: KeyframeObservation) -> Tensor: ...
    def attention(self, observation: KeyframeObservation) -> Tensor | None: ...
    def update(self, batch: KeyframeBatch, second_batch: KeyframeBatch | None = None) -> Metrics: ...


class KeyframeSuite(Protocol):
    """What the training loop needs of a benchmark."""

    name: str
    spec: KeyframeSpec

    def make_evaluation_envs(self, seed: int, envs_per_task: int) -> KeyframeEnvs:
        """Environments for evaluation, whose scenes are in no demonstration."""
        ...

    def check_evaluation(self) -> None:
        """Raise UserError if episodes cannot be played here."""
        ...


@dataclass
class _Drawn:
    """The one or two batches of the next update."""

    before: Tensor
    """The generator's state before the samples were drawn."""
    index: list[Tensor]
    """The samples of each batch, (T, B)."""
    batches: Future[list[KeyframeBatch]]


class CloningTrainer(Trainer):
    """Trains an agent on a cache of demonstrations.

    While the agent learns from a batch, a thread gathers the next one, unless `priority` is set.
    """

    unit = "iterations"

    agent: Agent
    suite: KeyframeSuite

    def start(self) -> Self:
        """Open the cache of the suite's demonstrations.

        Raises:
            UserError: the cache is missing or does not fit, or episodes cannot be played though evaluations are due.
        """
        spec, config = self.suite.spec, self.config
        if config.final_episodes or config.evaluate_every:
            try:  # fail before training, not after it
                self.suite.check_evaluation()
            except UserError as error:
                without = "To train without evaluations, use training.final_episodes=0 training.evaluate_every=0."
                raise UserError(f"{error} {without}") from error
        folder = Path(config.cache) / self.suite.name
        self.cache = DemoCache(folder, spec.tasks, spec.cameras, spec.image_size, demos=config.demos)
        counts, alpha, beta = self.cache.counts, config.priority_alpha, config.priority_beta
        self.priorities = Priorities(counts, alpha, beta) if config.priority else None
        self.seconds = {"wait": 0.0, "update": 0.0}
        self.generator = torch.Generator().manual_seed(self.seed)
        self._next: _Drawn | None = None
        self._seen: KeyframeBatch | None = None
        self._gatherer = ThreadPoolExecutor(1, "gather")
        return self

    def advance(self) -> Metrics:
        """Make one update of all tasks."""
        begin = time.perf_counter()
        drawn = self._next or self._draw()
        batches = drawn.batches.result()
        # With priorities the next batch depends on this update's losses, so it cannot be drawn ahead.
        self._next = None if self.priorities else self._draw()
        ready = time.perf_counter()
        metrics = self.agent.update(*batches)
        losses = metrics.pop("sample_loss", None)
        if self.priorities is not None and losses is not None:
            self.priorities.update(drawn.index[0], losses.cpu())
        self._seen = batches[0]
        self.step += 1
        self.updates += 1
        self.seconds["wait"] += ready - begin
        self.seconds["update"] += time.perf_counter() - ready
        return metrics

    def _draw(self) -> _Drawn:
        before, generator = self.generator.get_state(), self.generator
        count = 2 if self.agent.needs_second_batch else 1
        size, priorities = self.agent.config.batch_size, self.priorities
        if priorities is None:
            drawn: Sequence[tuple[Tensor, Tensor | None]] = [
                (draw_uniform(self.cache.counts, size, generator), None) for _ in range(count)
            ]
        else:
            drawn = [priorities.draw(size, generator) for _ in range(count)]
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        gathered = self._gatherer.submit(lambda: [self._gather(*d, seed) for d, seed in zip(drawn, seeds, strict=True)])
        return _Drawn(before, [index for index, _ in drawn], gathered)

    def _gather(self, index: Tensor, importance: Tensor | None, seed: int) -> KeyframeBatch:
        batch = self.cache.batch(index, importance)
        if not self.config.shift:
            return batch
        moved = shifted(batch.observation, self.config.shift, torch.Generator().manual_seed(seed))
        return batch._replace(observation=moved)

    def pictures(self, example: int = 0) -> dict[str, Any]:
        """name -> picture (H, C·W, 3) of the attention to C cameras, for each task's first sample in the last batch."""
        if self._seen is None:
            return {}
        first = KeyframeObservation(*(t[:, :1] for t in self._seen.observation))
        maps = self.agent.attention(first)
        if maps is None:
            return {}
        rows = zip(self.cache.tasks, first.rgb.numpy(), maps.cpu().numpy(), strict=True)
        return {f"attention/{task}": attention_image(rgb[0], where[0]) for task, rgb, where in rows}

    def state_dict(self) -> dict[str, Any]:
        """The state of training. A batch that has been drawn but not used is drawn again after loading."""
        state = super().state_dict()
        state["generator"] = self._next.before if self._next else self.generator.get_state()
        return state | ({"priorities": self.priorities.state_dict()} if self.priorities else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"].cpu())
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self._next = None

    def reseed(self) -> None:
        super().reseed()
        self.generator.manual_seed(self.stream)
        self._next = None

    def close(self) -> None:
        self._gatherer.shutdown()

    @property
    def policy(self) -> Callable[[Sequence[Sequence[Frame]], int], FloatArray]:
        """Frames (T × N) and the number of keyframes already reached -> the next keyframes (T, N, 8).

        A keyframe is xyz in metres, a quaternion xyzw, and 1 for an open or 0 for a closed gripper.
        """
        observer = Observer(self.suite.spec.cameras, self.suite.spec.image_size)

        def act(frames: Sequence[Sequence[Frame]], stage: int) -> FloatArray:
            over = np.zeros((len(frames), len(frames[0])), bool)
            return self.agent.act(observer(frames, over, stage)).cpu().numpy()

        return act

    def act(self, observation: Any, task: int | None, stage: int = 0, goal: Any = None) -> FloatArray:
        """The next keyframe (8,) of `task`, as in `policy`.

        Args:
            observation: a `Frame`.
            stage: the number of keyframes already reached.

        Raises:
            UserError: the observation is not a `Frame`.
        """
        if not isinstance(observation, Frame):
            raise expected("Observation", "a `mtrl.data.demos.Frame`", type(observation).__name__)
        return self.policy([[observation]] * self.suite.spec.num_tasks, stage)[task, 0]

    def evaluate(self, episodes: int, protocol: str, progress: Progress | None = None) -> Evaluation:
        """Play `episodes` episodes of every task. `protocol` has no effect."""
        copies, spec = min(self.config.evaluation_copies, episodes), self.suite.spec
        with contextlib.closing(self.suite.make_evaluation_envs(self.seed, copies)) as envs:
            return play(self.agent, envs, episodes, spec.cameras, spec.image_size, progress)


def build(config: Config, **parts: Any) -> CloningTrainer:
    return CloningTrainer(config, **parts)
