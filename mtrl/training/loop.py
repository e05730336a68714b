"""What all training has in common: its options, and the loop that advances a trainer and reports on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mtrl.core.config import check, check_choice, runtime_option
from mtrl.core.types import Metrics, Trainer

DATA = ("goals", "observation_size", "cameras", "image_shape")
"""Keys of a suite's sizes, of which the first that it has says what kind of data it gives."""


@dataclass
class TrainingConfig:
    """When to report; a step is what the kind of training counts, for each task."""

    data: ClassVar[str] = ""
    """Which of a suite's sizes tells that it has what this kind of training needs: a key of `DATA`."""

    log_every: int = runtime_option(500)
    """Steps between two rows of metrics."""
    evaluate_every: int = 0
    """Steps between two evaluations on the way; 0 for none."""
    evaluate_first: bool = False
    """Evaluate before the first step too, where there are evaluations on the way."""
    evaluation_episodes: int = 5
    """Episodes per task of an evaluation on the way."""
    final_episodes: int = 50
    """Episodes per task of the evaluation at the end."""
    protocol: str = "goals"
    """Goals of the evaluations: each goal once (goals), or drawn with replacement (upstream)."""
    checkpoint_every: int = runtime_option(50_000)
    """Steps between two checkpoints; one is saved at the end and on an interrupt in any case."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "evaluation_episodes", "final_episodes"):
            check(getattr(self, name) >= 1, f"training.{name}", "a positive integer", getattr(self, name))
        check(self.evaluate_every >= 0, "training.evaluate_every", "0 or more", self.evaluate_every)
        check_choice("training.protocol", self.protocol, ("goals", "upstream"))

    def evaluates(self, episodes: int) -> str:
        """What an evaluation looks at, for messages."""
        return f"{episodes} episodes of each"


@dataclass
class Hooks:
    """What the loop reports to."""

    log: Callable[[Metrics], None]
    evaluate: Callable[[], None]
    save: Callable[[], None]
    progress: Callable[[], None]


def run(trainer: Trainer, config: TrainingConfig, steps: int, hooks: Hooks) -> None:
    """Go on until `steps` steps of every task are done."""
    metrics: Metrics = {}
    if trainer.step == 0 and config.evaluate_every and config.evaluate_first:
        hooks.evaluate()
    while trainer.step < steps:
        before = trainer.step
        metrics = trainer.advance() or metrics
        hooks.progress()
        if _due(before, trainer.step, config.log_every):
            hooks.log(metrics)
        if config.evaluate_every and _due(before, trainer.step, config.evaluate_every):
            hooks.evaluate()
        if _due(before, trainer.step, config.checkpoint_every) and trainer.step < steps:
            hooks.save()


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` lies in the steps just taken."""
    return now // every > before // every
