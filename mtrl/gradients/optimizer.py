"""The one place where task losses become a parameter update."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mtrl.core.errors import expected
from mtrl.core.types import Metrics, PartialNetwork, TaskLoss, TaskParameters, TaskRows, Tensors
from mtrl.gradients.algebra import combine, gramian, rows
from mtrl.gradients.base import Context, Diagnostic, JacobianSurgery, Regularizer, Surgery, Weighting
from mtrl.gradients.look_ahead import LookAhead, like

CONFLICT_WINDOW = 100
"""Updates over which `conflicts` forgets."""


class _Part(NamedTuple):
    """What one update is of."""

    network: TaskParameters
    task: Tensor | None
    """(T,): the rows' tasks, where they are not all."""
    extras: dict[str, Tensor]

    def take(self, tensor: Tensor) -> Tensor:
        """(all tasks, ..) -> (T, ..)"""
        return tensor if self.task is None else tensor.index_select(0, self.task)

    def spread(self, gradient: Tensor, whole: Tensor) -> Tensor:
        """The gradient (T, ..) of the rows' part as that of the whole (all tasks, ..), zero for the others."""
        return gradient if self.task is None else torch.zeros_like(whole).index_add_(0, self.task, gradient)


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
        surgery: Surgery | JacobianSurgery | Regularizer | None = None,
        *,
        per_member: bool = False,
        primary: Tensor | None = None,
        reduction: str = "mean",
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        """per_member: surgery on each member of an ensemble by itself; primary (T,) bool, all if not given."""
        super().__init__()
        needs = {"Surgery": surgery is not None, "This weighting": weighting.needs_gramian}
        for name, needed in {**needs, "Diagnostics and affinities": bool(diagnostics)}.items():
            if needed and not network.tensors[0]:
                raise expected(name, "used with a network that shares parameters", "one that shares none")
        self._network = [network]  # in a list: it saves its own state
        self.optimizer = optimizer
        self.weighting = weighting
        members = (network.ensemble or 1) if per_member else 1
        self.surgery = surgery
        self._others = nn.ModuleList([copy.deepcopy(surgery) for _ in range(members - 1)] if surgery else [])
        self.per_member = per_member and network.ensemble is not None
        self.reduction = reduction
        self.max_grad_norm = max_grad_norm
        self.generator = generator
        self.step_count: Tensor
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64))
        self.last_weights: Tensor
        self.register_buffer("last_weights", torch.ones(network.num_tasks))
        self.primary: Tensor
        everything = torch.ones(network.num_tasks, dtype=torch.bool)
        self.register_buffer("primary", everything if primary is None else primary.clone())
        self.conflict_rate: Tensor
        self.register_buffer("conflict_rate", torch.zeros(network.num_tasks, network.num_tasks))
        self.diagnostics = nn.ModuleList(diagnostics)

    @property
    def network(self) -> TaskParameters:
        return self._network[0]

    @property
    def per_task(self) -> bool:
        """Whether an update needs each task's own gradient of the shared parameters."""
        wanted = self.weighting.needs_gramian or self.weighting.needs_look_ahead
        return wanted or self.surgery is not None or len(self.diagnostics) > 0

    @property
    def host_bound(self) -> str | None:
        """What of the methods works on the host, so that no graph can hold a step; None for nothing."""
        parts = [("this weighting", self.weighting), ("this surgery", self.surgery)]
        parts += [("this diagnostic or affinity", diagnostic) for diagnostic in self.diagnostics]
        return next((name for name, part in parts if getattr(part, "on_host", False)), None)

    @property
    def needs_second_batch(self) -> bool:
        """Whether `step` is to be given another batch of the same data."""
        return self.weighting.needs_look_ahead

    def step(
        self,
        task_losses: TaskLoss,
        batch: Any,
        second_batch: Any = None,
        extras: dict[str, Tensor] | None = None,
        rows: TaskRows | None = None,
    ) -> Metrics:
        """One update of the network's parameters. Returns tensors: losses (T,), weights (T,) and what is free.

        rows: the tasks of the batch's T rows, where they are not all of the network's in order. What the other tasks
        own has a gradient of zero then.
        """
        if self.needs_second_batch and second_batch is None:
            raise expected("This weighting", "given a second batch of the training data", second_batch)
        take = self._per_task_step if self.per_task else self._joint_step
        part = _Part(self.network, None, extras or {})
        if rows is not None:
            part = _Part(cast("PartialNetwork", self.network).at(rows), rows.task, extras or {})
        metrics, context = take(task_losses, batch, second_batch, part)
        if self.max_grad_norm is not None:
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        for diagnostic in self._watching():
            diagnostic.before_step(context)
        self.optimizer.step()
        for diagnostic in self._watching():
            metrics |= diagnostic.after_step(context)
        if self.weighting.needs_losses_after:
            self._learn_from_step(task_losses, batch, metrics["loss"], part)
        self.step_count += 1
        return metrics

    def _watching(self) -> Iterator[Diagnostic]:
        for diagnostic in self.diagnostics:
            assert isinstance(diagnostic, Diagnostic)
            yield diagnostic

    def _context(self, losses: Tensor, part: _Part, **more: Any) -> Context:
        settings = {"extras": part.extras, "generator": self.generator, "task": part.task}
        return Context(losses.detach(), self.step_count, part.take(self.primary), **settings, **more)

    def _weights(self, context: Context) -> Tensor:
        """The weights (T,) of this update, after the weighting has learned from it."""
        self.weighting.update(context)
        weights = self.weighting.weights(context).detach().to(context.losses.dtype)
        if context.task is None:
            self.last_weights.copy_(weights)
        else:
            self.last_weights.index_copy_(0, context.task, weights.to(self.last_weights))
        return weights

    def _factor(self, part: _Part) -> float:
        return 1.0 / part.network.num_tasks if self.reduction == "mean" else 1.0

    def _joint_step(self, task_losses: TaskLoss, batch: Any, second_batch: Any, part: _Part) -> tuple[Metrics, Context]:
        losses, aux = task_losses(*part.network.tensors, batch)
        context = self._context(losses, part)
        weights = self._weights(context)
        self.optimizer.zero_grad(set_to_none=True)
        torch.dot(losses, weights * self._factor(part)).backward()
        return {"loss": losses.detach(), "weight": weights, **aux}, context

    def _per_task_step(
        self, task_losses: TaskLoss, batch: Any, second_batch: Any, part: _Part
    ) -> tuple[Metrics, Context]:
        network, factor = part.network, self._factor(part)
        leaves, own, buffers = network.tensors
        if not network.shared_input:
            leaves = network.per_task_leaves()
        losses, aux = task_losses(leaves, own, buffers, batch)
        regularizer = self.surgery if isinstance(self.surgery, Regularizer) else None
        differentiate = _separate_gradients if network.shared_input else _per_task_gradients
        in_graph, owned = differentiate(losses, leaves, own, create_graph=regularizer is not None)
        shared = {n: g.detach() for n, g in in_graph.items()}
        grams = self._gramians(shared, part)
        gram, ahead = grams.sum(0), None
        if self.weighting.needs_look_ahead or self.diagnostics:
            settings = (part.take(self.primary), factor, shared, owned, part.take)
            ahead = LookAhead(network, self.optimizer, task_losses, batch, second_batch, *settings)
        context = self._context(losses, part, gramian=gram, look_ahead=ahead)
        weights = self._weights(context)
        metrics = {"loss": losses.detach(), "weight": weights, **self._conflicts(gram, part), **aux}
        scaled = weights * factor
        if regularizer is None:
            # Not in place: two parameters may have one gradient tensor, and diagnostics see it afterwards.
            combined = self._combined(shared, grams, weights, context.primary, factor)
            self._write(combined, {n: g * like(scaled, g) for n, g in owned.items()}, part)
            return metrics, context
        penalty = regularizer.penalty(gramian(self._blocks(in_graph)))
        shared, owned = _gradients(torch.dot(losses, scaled) + penalty, leaves, own)
        summed = network.shared_input
        self._write({n: g if summed else g.sum(0) for n, g in shared.items()}, owned, part)
        return metrics | {"penalty": penalty.detach()}, context

    def _conflicts(self, gram: Tensor, part: _Part) -> Metrics:
        """What is free, and `conflicts` (T, T): in how many of the last updates each pair of tasks conflicted.

        Where an update sees only some tasks, a pair meets too seldom for that.
        """
        metrics = conflict_metrics(gram)
        if part.task is not None:
            return metrics
        share = (self.step_count + 1).clamp(max=CONFLICT_WINDOW).reciprocal()
        self.conflict_rate.lerp_((gram < 0).to(self.conflict_rate), share)
        return metrics | {"conflicts": self.conflict_rate.clone()}

    def _blocks(self, shared: Tensors) -> list[Tensor]:
        return [block for g in shared.values() for block in rows(g, self.network.ensemble)]

    def _gramians(self, shared: Tensors, part: _Part) -> Tensor:
        """(1, T, T) float64, or (E, T, T) where each member has its own; zero where nothing is shared."""
        tasks, ensemble = part.network.num_tasks, self.network.ensemble
        if not shared:
            return torch.zeros(1, tasks, tasks, dtype=torch.float64, device=self.primary.device)
        if not self.per_member:
            return gramian(self._blocks(shared)).double().unsqueeze(0)
        members = zip(*(rows(g, ensemble) for g in shared.values()), strict=True)
        return torch.stack([gramian(blocks).double() for blocks in members])

    def _combined(
        self, shared: Tensors, grams: Tensor, weights: Tensor, primary: Tensor, factor: float
    ) -> dict[str, Tensor]:
        """The shared gradients after surgery: name -> (*shape)."""
        if isinstance(self.surgery, JacobianSurgery):
            scaled = weights * factor
            return {n: self.surgery.combine(g * like(scaled, g), self.generator) for n, g in shared.items()}
        coefficients = self._coefficients(grams, weights.double(), primary).mul(factor).to(weights.dtype)
        return {n: combine(g, coefficients if self.per_member else coefficients[0]) for n, g in shared.items()}

    def _coefficients(self, grams: Tensor, weights: Tensor, primary: Tensor) -> Tensor:
        """Gramians (M, T, T) of the unweighted gradients, weights (T,) -> (M, T), of the unweighted gradients."""
        if self.surgery is None:
            return weights.expand(len(grams), -1)
        found = []
        for surgery, gram in zip([self.surgery, *self._others], grams, strict=True):
            assert isinstance(surgery, Surgery)
            noise = surgery.noise(len(weights), self.generator, gram.device)
            weighted = gram * weights.unsqueeze(0) * weights.unsqueeze(1)
            found.append(weights * surgery.coefficients(weighted, primary, noise))
        return torch.stack(found)

    def _write(self, shared: Tensors, own: Tensors, part: _Part) -> None:
        for name, gradient in shared.items():
            parameter = self.network.shared[name]
            parameter.grad = _laid_out_as(parameter, gradient)
        for name, gradient in own.items():
            parameter = self.network.own[name]
            parameter.grad = _laid_out_as(parameter, part.spread(gradient, parameter))

    @torch.no_grad()
    def _learn_from_step(self, task_losses: TaskLoss, batch: Any, before: Tensor, part: _Part) -> None:
        shared, own, buffers = part.network.tensors
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        self.weighting.after_step(before, task_losses(shared, own, copies, batch)[0])


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout: a fused optimiser goes through both as they lie in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _gradients(
    loss: Tensor, shared: Tensors, own: Tensors, *, create_graph: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of a scalar by both kinds of tensors."""
    found = torch.autograd.grad(loss, [*shared.values(), *own.values()], create_graph=create_graph)
    return dict(zip(shared, found, strict=False)), dict(zip(own, found[len(shared) :], strict=True))


def _per_task_gradients(
    losses: Tensor, shared: Tensors, own: Tensors, *, create_graph: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients by leaves with a task axis: one backward pass gives them all."""
    return _gradients(losses.sum(), shared, own, create_graph=create_graph)


def _separate_gradients(
    losses: Tensor, shared: Tensors, own: Tensors, *, create_graph: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of T losses of the same inputs, one backward pass through what is shared for each: (T, *shape)."""

    def gradients(loss: Tensor, tensors: Tensors) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, list(tensors.values()), retain_graph=True, create_graph=create_graph)

    tasks = [gradients(loss, shared) for loss in losses]
    found = {name: torch.stack(gradients) for name, gradients in zip(shared, zip(*tasks, strict=True), strict=True)}
    owned = gradients(losses.sum(), own) if own else ()
    return found, dict(zip(own, owned, strict=True))


def conflict_metrics(gram: Tensor) -> Metrics:
    """What a Gramian (T, T) tells for free: gradient norms (T,), cosines (T, T) and the share of conflicting pairs."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    cosine = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp(min=torch.finfo(gram.dtype).tiny)
    conflict = (gram < 0).sum() / max(len(gram) * (len(gram) - 1), 1)
    return {"task_grad_norm": norms, "cosine": cosine, "conflict": conflict}
