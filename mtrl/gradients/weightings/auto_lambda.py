"""Auto-λ: weights that most lower the primary tasks' loss after the next step (Liu et al. 2022, Eq. 3-4).

Let θ' = θ − α ∇_θ r Σ_i λ_i L_i(θ) on the training batch, with the optimiser's learning rate α and the factor r by
which losses are reduced over tasks (`LookAhead`). λ descends L_val(θ') = Σ_(primary) L_i(θ') on another batch of the
same data, with an Adam of its own. Then θ takes its step on the training batch with the new λ. There are three
estimators of dL_val/dλ_i = −α r ∇L_i(θ)·∇L_val(θ'), in which a parameter owned by task j has a gradient only for i = j.
exact: this formula, from the tasks' gradients at θ and one forward and backward pass at θ'.
finite_difference: the paper's, −α r (L_i(θ+) − L_i(θ−)) / 2ε, θ± = θ ± ε ∇L_val(θ'), ε = 0.01 / ‖∇L_val(θ')‖.
second_order: automatic differentiation through the unrolled step; slow, to check the others.

The step to θ' is that of SGD with the optimiser's momentum and weight decay, even if the optimiser is Adam, as in the
authors' code. Unlike in their code, tensors at θ' and θ± are new ones, so nothing has to be restored and no running
statistics change. λ may become negative, as in the paper. Losses may also be negative, so SAC's actor learns its own λ
by default.
With `sampled_tasks` = K' only K' random λ move in an update. In the paper this saves the memory of the other gradients;
here one backward pass gives all of them. If a batch holds only some of the tasks, only their λ move, and the primary
tasks among them make up L_val.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import check, option
from mtrl.gradients.adam import Adam
from mtrl.gradients.base import Context, Weighting, WeightingConfig
from mtrl.gradients.look_ahead import ESTIMATORS


@dataclass
class Config(WeightingConfig):
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "cifar100": {"learning_rate": "3e-4"},
        "cityscapes": {"learning_rate": "3e-5"},
        "rlbench": {"learning_rate": "3e-5"},
    }
    kind: str = "auto_lambda"
    learning_rate: float = option(1e-4, "0 or more")
    """Adam's learning rate for λ (the paper: 1e-4 for NYUv2, 3e-5 for CityScapes and RLBench, 3e-4 for CIFAR-100)."""
    initial: float = 0.1
    """The initial λ of every task."""
    primary: list[str] = field(default_factory=list)
    """Names or indexes of the primary tasks; the others are auxiliary. If empty, all tasks are primary."""
    estimator: str = option("exact", ESTIMATORS)
    """The estimator of the derivative with respect to λ: exact, finite_difference or second_order."""
    sampled_tasks: int | None = option(None, "a positive integer")
    """K': the number of random tasks whose λ moves in an update; all if not given."""
    swap: bool = True
    """Whether the primary loss after the step is that of a second batch. If false, it is that of the training batch
    ("no swapping", the paper's Table 4)."""

    def primary_tasks(self) -> Sequence[str]:
        return self.primary


class AutoLambda(Weighting):
    needs_look_ahead = True
    takes_some_tasks = True

    def __init__(self, config: Config, num_tasks: int) -> None:
        super().__init__()
        sampled = config.sampled_tasks
        check(sampled is None or sampled <= num_tasks, "weighting.sampled_tasks", f"at most {num_tasks}", sampled)
        self.estimator, self.looks_at_second_batch = config.estimator, config.swap
        self.sampled = None if sampled == num_tasks else sampled
        self.adam = Adam(num_tasks, config.learning_rate)
        self.value = nn.Buffer(torch.full((num_tasks,), config.initial))

    def update(self, context: Context) -> None:
        assert context.look_ahead is not None
        gradient = context.look_ahead.derivative(self.value, self.estimator)
        self.adam.step(self.value, gradient, self._active(context))

    def _active(self, context: Context) -> Tensor:
        """The tasks (T,) bool whose λ moves."""
        if self.sampled is None:
            return context.present
        draw = torch.rand(self.value.shape, device=self.value.device, generator=context.generator)
        sampled = torch.zeros_like(draw, dtype=torch.bool).scatter_(0, draw.topk(self.sampled).indices, True)
        return sampled & context.present

    def weights(self, context: Context) -> Tensor:
        return self.value


def build(config: Config, *, num_tasks: int) -> Weighting:
    return AutoLambda(config, num_tasks)
