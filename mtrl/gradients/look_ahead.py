"""A trial step of the optimiser on copies of the parameters, and the losses after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import TaskLoss, TaskParameters, Tensors
from mtrl.execution.processes import Processes
from mtrl.gradients.algebra import along, combine, like, stacked

P = ParamSpec("P")
R = TypeVar("R")

ESTIMATORS = ("exact", "finite_difference", "second_order")


def with_same_noise(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """The same function, but each call draws the random numbers that PyTorch's global generators would draw now.

    So dropout has the same masks in an update and in its trial steps. The calls leave the generators as they are.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return function  # a CUDA graph cannot read a generator's state
    devices = [device] if device.type == "cuda" else []
    state, on_device = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]

    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(state)
            for d, found in zip(devices, on_device, strict=True):
                torch.cuda.set_rng_state(found, d)
            return function(*args, **kwargs)

    return repeated


def with_same_memory(losses: TaskLoss, buffers: Tensors) -> TaskLoss:
    """The same losses, but computed with copies of these buffers as they are now, whatever buffers they are given.

    So a network that remembers its batches, such as `agents.matching`'s, does not count a batch again in trial steps.
    """
    kept = {name: buffer.clone() for name, buffer in buffers.items()}

    def repeated(shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Any, Any]:
        return losses(shared, own, {name: buffer.clone() for name, buffer in kept.items()}, batch)

    return repeated


@dataclass
class LookAhead:
    """The step θ' = θ − α (r Σ_i λ_i ∇L_i(θ) + μ m + δ θ) and the primary tasks' loss after it.

    α is the optimiser's learning rate, and r the reduction's factor. Momentum μ m and weight decay δ θ are those of the
    optimiser where it has them. Preconditioning of adaptive optimisers, dampening, Nesterov momentum, surgery and
    clipping are left out. Losses are computed with new tensors, so parameters do not change. Parameters that are not
    trained, or that the optimiser lacks, do not move. Gradients, losses and the weights of `step` are those of the S
    tasks of the batch; the weights of `derivative` are those of all T tasks.
    """

    network: TaskParameters
    optimizer: torch.optim.Optimizer
    task_losses: TaskLoss
    """They leave buffers as they are; see `with_same_memory`."""
    batch: Any
    """The batch of the step."""
    second_batch: Any
    """The batch of the primary loss after the step."""
    primary: Tensor
    """(T,) bool"""
    factor: float
    """r"""
    shared: Tensors
    """name -> ∇L_i(θ) of the unweighted losses, (S, *shape)"""
    own: Tensors
    """name -> the same for owned parameters, (S, *shape), or (*shape) if the name is in `network.owner`"""
    subset: TaskSubset
    """The tasks of the batch."""
    processes: Processes
    """The processes over which losses and gradients are averaged."""

    def __post_init__(self) -> None:
        self._groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        self._primary = self.subset.gather(self.primary)

    def losses(self, shared: Tensors, own: Tensors, batch: Any) -> Tensor:
        """The losses (S,) on a batch, with these tensors in place of the current ones."""
        all_shared, all_own, buffers = self.network.tensors
        return stacked(self.task_losses({**all_shared, **shared}, {**all_own, **own}, buffers, batch)[0])

    @torch.no_grad()
    def step(self, weights: Tensor, coefficients: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """weights λ (S,) -> the trained tensors of θ', as (shared, own).

        coefficients (S,): factors of the shared gradients, in place of λ.
        """
        scaled = weights * self.factor
        factors = scaled if coefficients is None else coefficients * self.factor
        shared = {n: self.moved(self.network.shared[n], combine(g, factors)) for n, g in self.shared.items()}
        own = {n: like(scaled, g, self.network.owner.get(n)) * g for n, g in self.own.items()}
        own = {n: self.moved(self.network.own[n], g, self.subset) for n, g in own.items()}
        return shared, own

    def derivative(self, weights: Tensor, estimator: str = "exact") -> Tensor:
        """d Σ_(i primary) L_i(θ'; second batch) / dλ, (T,), at weights λ (T,). See `auto_lambda` for the estimators."""
        weights = weights.detach().to(next(iter(self.network.parameters())).dtype)
        methods = {"exact": self._exact, "finite_difference": self._difference, "second_order": self._unrolled}
        return self.subset.scatter(methods[estimator](self.subset.gather(weights)), weights)

    def moved(
        self,
        parameter: Tensor,
        gradient: Tensor,
        subset: TaskSubset = ALL_TASKS,
        *,
        rate: float | None = None,
        plain: bool = False,
    ) -> Tensor:
        """A parameter after the step; if it has a task axis, only the rows of the tasks of `subset`.

        rate: α; the optimiser's if not given. plain: whether momentum and weight decay are left out.
        """
        group, value = self._groups.get(parameter), subset.gather(parameter.detach())
        if group is None:
            return value
        alpha = self.rate(parameter) if rate is None else rate
        if plain:
            return value - alpha * gradient
        direction = gradient + group.get("weight_decay", 0.0) * value
        momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            direction = direction + group["momentum"] * subset.gather(momentum)
        return value - alpha * direction

    def _values(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The trained tensors of θ as (shared, own), detached."""
        shared = {n: self.network.shared[n].detach() for n in self.shared}
        return shared, {n: self.subset.gather(self.network.own[n].detach()) for n in self.own}

    def rate(self, parameter: Tensor) -> Any:
        """α of a parameter: a number, or a tensor () with a capturable optimiser; 0 if the optimiser lacks it."""
        return self._groups[parameter]["lr"] if parameter in self._groups else 0.0

    def _primary_loss(self, shared: Tensors, own: Tensors) -> Tensor:
        return torch.where(self._primary, self.losses(shared, own, self.second_batch), 0.0).sum()

    def _direction(self, weights: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """α ∇L(θ') as (shared, own), where L is the primary loss. If the gradient at θ grows by a small g, the primary
        loss after the step falls by ⟨g, α ∇L(θ')⟩."""
        shared, own = self.step(weights)
        leaves = [t.requires_grad_() for t in (*shared.values(), *own.values())]
        gradients = iter(self.processes.derivatives(self._primary_loss(shared, own), leaves))
        tables = ((shared, self.network.shared), (own, self.network.own))
        shared, own = ({n: self.rate(whole[n]) * next(gradients) for n in part} for part, whole in tables)
        return shared, own

    def _exact(self, weights: Tensor) -> Tensor:
        shared, own = self._direction(weights)
        total = torch.zeros_like(weights)
        for name, direction in shared.items():
            total += along(self.shared[name], direction, self.network.ensemble)
        for name, direction in own.items():
            product, owner = self.own[name] * direction, self.network.owner.get(name)
            if owner is None:
                total += product.reshape(len(product), -1).sum(1)
            else:
                total[owner] += product.sum()
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
        gradients = iter(self.processes.derivatives(loss, [*shared.values(), *own.values()], graph=True))
        shared = {n: self.moved(self.network.shared[n], next(gradients)) for n in shared}
        own = {n: self.moved(self.network.own[n], next(gradients), self.subset) for n in own}
        return self.processes.derivatives(self._primary_loss(shared, own), [weights])[0]
