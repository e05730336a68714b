"""The one place where task losses become a parameter update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtrl.core.errors import expected
from mtrl.core.types import Metrics, TaskLoss, TaskParameters, Tensors
from mtrl.gradients.algebra import combine, gramian, rows
from mtrl.gradients.base import Context, Surgery, Weighting


class MultiTaskOptimizer(nn.Module):
    """Takes T losses, weights them, operates on the shared gradients and takes one optimiser step.

    Weights scale losses. Surgery acts on the shared parameters' gradients of the weighted losses; a
    parameter that a task owns gets its task's weighted gradient, never surgery. Clipping applies to the
    final gradient. Without surgery, and with a weighting that needs no gradients, one joint backward pass
    does it all.
    """

    def __init__(
        self,
        network: TaskParameters,
        optimizer: torch.optim.Optimizer,
        weighting: Weighting,
        surgery: Surgery | None = None,
        *,
        reduction: str = "mean",
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if surgery is not None and not network.tensors[0]:
            raise expected("Surgery", "used with a network that shares parameters", "one that shares none")
        self._network = [network]  # in a list: it saves its own state
        self.optimizer = optimizer
        self.weighting = weighting
        self.surgery = surgery
        self.factor = 1.0 / network.num_tasks if reduction == "mean" else 1.0
        self.max_grad_norm = max_grad_norm
        self.generator = generator
        self.step_count: Tensor
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64))
        self.primary: Tensor
        self.register_buffer("primary", torch.ones(network.num_tasks, dtype=torch.bool))

    @property
    def network(self) -> TaskParameters:
        return self._network[0]

    @property
    def per_task(self) -> bool:
        """Whether an update needs each task's own gradient of the shared parameters."""
        return self.surgery is not None or self.weighting.needs_gramian or self.weighting.needs_look_ahead

    def step(
        self, task_losses: TaskLoss, batch: Any, second_batch: Any = None, extras: dict[str, Tensor] | None = None
    ) -> Metrics:
        """One update of the network's parameters. Returns tensors: losses (T,), weights (T,) and what is free."""
        take = self._per_task_step if self.per_task else self._joint_step
        metrics = take(task_losses, batch, extras or {})
        if self.max_grad_norm is not None:
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.step_count += 1
        return metrics

    def _context(self, losses: Tensor, extras: dict[str, Tensor], **more: Any) -> Context:
        return Context(losses.detach(), self.step_count, self.primary, extras=extras, **more)

    def _joint_step(self, task_losses: TaskLoss, batch: Any, extras: dict[str, Tensor]) -> Metrics:
        losses, aux = task_losses(*self.network.tensors, batch)
        context = self._context(losses, extras)
        self.weighting.update(context)
        weights = self.weighting.weights(context).detach()
        self.optimizer.zero_grad(set_to_none=True)
        torch.dot(losses, weights * self.factor).backward()
        return {"loss": context.losses, "weight": weights, **aux}

    def _per_task_step(self, task_losses: TaskLoss, batch: Any, extras: dict[str, Tensor]) -> Metrics:
        losses, aux, shared, own = self._per_task_gradients(task_losses, batch)
        blocks = [block for g in shared.values() for block in rows(g, self.network.ensemble)]
        gram = gramian(blocks).double()
        context = self._context(losses, extras, gramian=gram)
        self.weighting.update(context)
        weights = self.weighting.weights(context).detach()
        coefficients = weights.double()
        if self.surgery is not None:
            weighted = gram * coefficients.unsqueeze(0) * coefficients.unsqueeze(1)
            noise = self.surgery.noise(len(losses), self.generator, gram.device)
            coefficients = coefficients * self.surgery.coefficients(weighted, self.primary, noise)
        self._write(shared, own, (coefficients * self.factor).to(losses.dtype), weights * self.factor)
        return {"loss": context.losses, "weight": weights, **conflict_metrics(gram), **aux}

    def _per_task_gradients(
        self, task_losses: TaskLoss, batch: Any
    ) -> tuple[Tensor, Metrics, dict[str, Tensor], dict[str, Tensor]]:
        """Losses (T,), auxiliaries, and the unweighted gradients (T, *shape) of shared and owned tensors."""
        _, own, buffers = self.network.tensors
        leaves = self.network.per_task_leaves()
        losses, aux = task_losses(leaves, own, buffers, batch)
        gradients = torch.autograd.grad(losses.sum(), [*leaves.values(), *own.values()])
        shared = dict(zip(leaves, gradients[: len(leaves)], strict=True))
        return losses, aux, shared, dict(zip(own, gradients[len(leaves) :], strict=True))

    def _write(self, shared: Tensors, own: Tensors, coefficients: Tensor, weights: Tensor) -> None:
        for name, gradient in shared.items():
            self.network.shared[name].grad = combine(gradient, coefficients)
        for name, gradient in own.items():
            self.network.own[name].grad = gradient.mul_(weights.view(-1, *[1] * (gradient.ndim - 1)))


def conflict_metrics(gram: Tensor) -> Metrics:
    """What a Gramian (T, T) tells for free: gradient norms (T,), cosines (T, T) and the share of conflicting pairs."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    cosine = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp(min=torch.finfo(gram.dtype).tiny)
    pairs = max(len(gram) * (len(gram) - 1), 1)
    conflict = (cosine.triu(1) < 0).sum() * 2 / pairs
    return {"task_grad_norm": norms, "cosine": cosine, "conflict": conflict}
