"""A trial step of the optimiser, taken on copies, and what it does to the losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl.core.types import TaskLoss, TaskParameters, Tensors
from mtrl.gradients.algebra import along, combine

ESTIMATORS = ("exact", "finite_difference", "second_order")


@dataclass
class LookAhead:
    """The step θ' = θ − α (r Σ_i λ_i ∇L_i(θ) + μ m + δ θ) and the primary tasks' loss after it.

    α is the optimiser's learning rate, r the reduction's factor; momentum μ m and weight decay δ θ are those of the
    optimiser where it has them. Adaptive optimisers are not preconditioned, nor is there surgery or clipping. Losses
    are taken of new tensors and of copies of the buffers, so that parameters and statistics stay as they are.
    """

    network: TaskParameters
    optimizer: torch.optim.Optimizer
    task_losses: TaskLoss
    batch: Any
    second_batch: Any
    primary: Tensor
    """(T,) bool"""
    factor: float
    """r"""
    shared: Tensors
    """name -> ∇L_i(θ) of the unweighted losses, (T, *shape)"""
    own: Tensors
    """name -> (T, *shape)"""
    take: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """What of a tensor of all tasks the rows of the batch have, where they are not all."""

    def __post_init__(self) -> None:
        self._groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}

    def losses(self, shared: Tensors, own: Tensors, batch: Any) -> Tensor:
        """The losses (T,) that these tensors have on a batch."""
        buffers = {name: buffer.clone() for name, buffer in self.network.tensors[2].items()}
        return self.task_losses(shared, own, buffers, batch)[0]

    @torch.no_grad()
    def step(self, weights: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """weights λ (T,) -> θ' as (shared, own)."""
        scaled = weights * self.factor
        shared = {n: self._moved(self.network.shared[n], combine(g, scaled)) for n, g in self.shared.items()}
        own = {n: self._moved_rows(self.network.own[n], like(scaled, g) * g) for n, g in self.own.items()}
        return shared, own

    def derivative(self, weights: Tensor, estimator: str = "exact") -> Tensor:
        """d Σ_(i primary) L_i(θ'; second batch) / dλ, (T,). See `auto_lambda` for the estimators."""
        weights = weights.detach().to(next(iter(self.network.parameters())).dtype)
        methods = {"exact": self._exact, "finite_difference": self._difference, "second_order": self._unrolled}
        return methods[estimator](weights)

    def _moved(self, parameter: Tensor, gradient: Tensor, part: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        """A parameter after the step; part: what of it, and of its momentum, the gradient is of."""
        group, value = self._groups[parameter], part(parameter.detach())
        direction = gradient + group.get("weight_decay", 0.0) * value
        momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            direction = direction + group["momentum"] * part(momentum)
        return value - self.rate(parameter) * direction

    def _moved_rows(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        return self._moved(parameter, gradient, self.take)

    def _values(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """θ as (shared, own), detached."""
        shared = {n: p.detach() for n, p in self.network.shared.items()}
        return shared, {n: self.take(p.detach()) for n, p in self.network.own.items()}

    def rate(self, parameter: Tensor) -> Any:
        """α of a parameter: a number, or a tensor () of a capturable optimiser."""
        return self._groups[parameter]["lr"]

    def _primary_loss(self, shared: Tensors, own: Tensors) -> Tensor:
        return torch.where(self.primary, self.losses(shared, own, self.second_batch), 0.0).sum()

    def _direction(self, weights: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """α ∇L_val(θ') as (shared, own): how a small gradient at θ moves the primary loss after the step."""
        shared, own = self.step(weights)
        leaves = [t.requires_grad_() for t in (*shared.values(), *own.values())]
        gradients = iter(torch.autograd.grad(self._primary_loss(shared, own), leaves))
        tables = (self.network.shared, self.network.own)
        shared, own = ({n: self.rate(p) * next(gradients) for n, p in table.items()} for table in tables)
        return shared, own

    def _exact(self, weights: Tensor) -> Tensor:
        shared, own = self._direction(weights)
        total = torch.zeros_like(weights)
        for name, direction in shared.items():
            total += along(self.shared[name], direction, self.network.ensemble)
        for name, direction in own.items():
            total += (self.own[name] * direction).flatten(1).sum(1)
        return -self.factor * total

    def _difference(self, weights: Tensor) -> Tensor:
        directions = self._direction(weights)
        squares = [d.square().sum() for part in directions for d in part.values()]
        norm = torch.stack(squares).sum().sqrt()
        epsilon = 0.01 / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                tables = zip(self._values(), directions, strict=True)
                shared, own = ({n: table[n] + sign * epsilon * d for n, d in part.items()} for table, part in tables)
                ends.append(self.losses(shared, own, self.batch))
        return -self.factor * (ends[0] - ends[1]) / (2 * epsilon)

    def _unrolled(self, weights: Tensor) -> Tensor:
        weights = weights.requires_grad_()
        shared, own = ({n: p.clone().requires_grad_() for n, p in table.items()} for table in self._values())
        loss = torch.dot(self.losses(shared, own, self.batch), weights * self.factor)
        gradients = iter(torch.autograd.grad(loss, [*shared.values(), *own.values()], create_graph=True))
        shared = {n: self._moved(p, next(gradients)) for n, p in self.network.shared.items()}
        own = {n: self._moved_rows(p, next(gradients)) for n, p in self.network.own.items()}
        return torch.autograd.grad(self._primary_loss(shared, own), weights)[0]


def like(weights: Tensor, gradient: Tensor) -> Tensor:
    """weights (T,) shaped to multiply a gradient (T, *shape)."""
    return weights.view(-1, *[1] * (gradient.ndim - 1))
