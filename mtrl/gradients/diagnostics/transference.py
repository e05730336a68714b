"""Transference: what a task's gradient step does to every task's loss (Fifty et al. 2020 and 2021, TAG).

One update in `every` is measured, on its own batch. Let θ_i' = θ − α ∇L_i(θ) be a step of the shared parameters along
task i's gradient only. The affinity of task i with task j is Z_ij = 1 − L_j(θ_i') / L_j(θ), or 0 where L_j(θ) is 0. An
actor's losses may be negative, so for them it is the difference L_j(θ) − L_j(θ_i'). A positive affinity means that the
step helps. Parameters that a task owns do not move. The mean over training so far is logged; `mtrl group` uses it to
find the tasks to train together. Each measurement costs T forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.core.types import Metrics
from mtrl.gradients.base import Context, Diagnostic, DiagnosticConfig


@dataclass
class Config(DiagnosticConfig):
    affinity: ClassVar[str | None] = "affinity"
    option_group: ClassVar[str] = "diagnostics.transference"
    kind: str = "transference"
    every: int = option(10, "a positive integer")
    """Affinities are measured once in this many updates."""
    apply_to: str = option("critic", ("both", "actor", "critic"))
    """The losses to measure, for an agent with an actor and a critic: actor, critic or both."""
    step_size: float | None = option(None, "positive")
    """α; the optimiser's learning rate if not given."""
    momentum: bool = False
    """Whether the step also contains the momentum and weight decay of the SGD optimiser."""
    per_rate: bool = False
    """Whether affinities are divided by α, so that early and late ones count alike when the learning rate falls."""


class Transference(Diagnostic):
    def __init__(self, config: Config, num_tasks: int, ratio: bool) -> None:
        super().__init__()
        self.config, self.ratio = config, ratio
        self.on_host = config.every > 1
        self._updates = 0  # on the host, so that deciding whether to measure does not wait for the device
        self.measured = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.total = nn.Buffer(torch.zeros(num_tasks, num_tasks, dtype=torch.float64))

    def before_step(self, context: Context) -> None:
        if self._updates % self.config.every == 0:
            found = self._affinities(context)
            # If affinities are divided by the learning rate, a rate of 0, which a schedule may end in, tells nothing.
            # It gives 0 instead of NaN to a task whose loss is 0.
            sound = ~(found.isnan().any() & self.config.per_rate)
            self.total += torch.where(sound, found, 0.0)
            self.measured += sound
        self._updates += 1

    def after_step(self, context: Context) -> Metrics:
        return {"affinity": self.total / self.measured}

    @torch.no_grad()
    def _affinities(self, context: Context) -> Tensor:
        ahead = context.look_ahead
        assert ahead is not None
        table = {n: ahead.network.shared[n] for n in ahead.shared}
        config = self.config
        before, found = context.losses.double(), []
        for task in range(len(before)):
            step = {n: ahead.shared[n][task] for n in table}
            options: dict[str, Any] = {"rate": config.step_size, "plain": not config.momentum}
            moved = {n: ahead.moved(p, step[n], **options) for n, p in table.items()}
            found.append(before - ahead.losses(moved, {}, ahead.batch).double())
        gains = torch.stack(found)
        if config.per_rate:
            gains = gains / (config.step_size or ahead.rate(next(iter(table.values()))))
        return torch.where(before != 0, gains / torch.where(before != 0, before, 1.0), 0.0) if self.ratio else gains

    def get_extra_state(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._updates = state["updates"]


def build(config: Config, *, num_tasks: int, part: str | None) -> Diagnostic | None:
    if part is not None and config.apply_to not in ("both", part):
        return None
    return Transference(config, num_tasks, ratio=part != "actor")
