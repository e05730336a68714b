"""Turns the tasks' losses into one update of the parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtrl.core.errors import expected
from mtrl.core.subset import ALL_TASKS, SomeTasks, TaskSubset
from mtrl.core.types import Metrics, TaskLoss, TaskParameters, Tensors
from mtrl.execution.processes import Processes
from mtrl.gradients.algebra import conflict_metrics, gramian, laid_out_as, like, rows, stacked, trained
from mtrl.gradients.base import Context, Diagnostic, Surgery, Weighting, weights_of
from mtrl.gradients.look_ahead import LookAhead, with_same_memory, with_same_noise
from mtrl.gradients.surgery.none import NoSurgery

CONFLICT_WINDOW = 100
"""The number of updates over which the metric `conflicts` is averaged."""


@dataclass
class _Update:
    """The inputs of one update."""

    network: TaskParameters
    """The network, restricted to the tasks of the batch (`TaskParameters.at`)."""
    subset: TaskSubset
    task_losses: TaskLoss
    again: TaskLoss
    """`task_losses` with the random numbers of its first call."""
    batch: Any
    second_batch: Any
    extras: dict[str, Tensor]
    factor: float
    """The reduction's factor: 1 / S for the mean, 1 for the sum."""


class MultiTaskOptimizer(nn.Module):
    """Weights T losses, applies surgery to the shared gradients and takes one optimiser step.

    Weights scale the losses. Surgery acts on the gradients of the weighted losses with respect to the shared
    parameters. A parameter that a task owns gets the gradient of its task's weighted loss. Clipping applies to the
    final gradient. Unless surgery, the weighting or a diagnostic needs gradients, one joint backward pass is enough.

    A parameter that no loss depends on gets a gradient of zero. One with `requires_grad_(False)` gets none.
    """

    def __init__(
        self,
        network: TaskParameters,
        optimizer: torch.optim.Optimizer,
        weighting: Weighting,
        surgery: Surgery | None = None,
        *,
        per_member: bool = False,
        primary: Tensor | None = None,
        reduction: str = "mean",
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
        diagnostics: Sequence[Diagnostic] = (),
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        """surgery: none if not given. per_member: whether surgery acts on each member of an ensemble separately.
        primary (T,) bool: all tasks if not given. reduction: "mean" or "sum" of the weighted losses. max_grad_norm: no
        clipping if not given. generator: the source of the methods' randomness. process_group: the processes that learn
        together, each from its own batches. All start with the parameters of the first process, and need a
        `generator` in the same state, or none."""
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise expected("Argument `reduction`", "mean or sum", reduction)
        self.processes = Processes(process_group)
        self.processes.agree([*network.parameters(), *network.tensors[2].values()])
        if self.processes.count > 1 and generator is None:
            generator = torch.Generator(next(network.parameters()).device)
        surgery = NoSurgery() if surgery is None else surgery
        self._network = [network]  # in a list, since the network saves its own state
        self.optimizer = optimizer
        self.weighting = weighting
        members = (network.ensemble or 1) if per_member else 1
        self.surgery = surgery
        self._others = nn.ModuleList([copy.deepcopy(surgery) for _ in range(members - 1)])
        self.per_member = per_member and network.ensemble is not None
        self.reduction = reduction
        self.max_grad_norm = max_grad_norm
        self.generator = generator
        self.step_count = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.last_weights = nn.Buffer(torch.ones(network.num_tasks))
        self.everyone = nn.Buffer(torch.ones(network.num_tasks, dtype=torch.bool), persistent=False)
        self.primary = nn.Buffer(self.everyone.clone() if primary is None else primary.clone())
        self.conflict_rate = nn.Buffer(torch.zeros(network.num_tasks, network.num_tasks))
        self.diagnostics = nn.ModuleList(diagnostics)
        self.check_shared()

    def check_shared(self) -> None:
        """Raise `UserError` where a method compares gradients and the network shares no parameter."""
        needs = {"Surgery": self.surgery.needs_gradients, "This weighting": self.weighting.needs_gramian}
        for name, needed in {**needs, "A diagnostic": len(self.diagnostics) > 0}.items():
            if needed and not self.network.tensors[0]:
                raise expected(name, "used with a network that shares parameters", "one that shares none")

    @property
    def network(self) -> TaskParameters:
        return self._network[0]

    @property
    def per_task(self) -> bool:
        """Whether an update needs each task's own gradient of the shared parameters."""
        wanted = self.weighting.needs_gramian or self.weighting.needs_look_ahead
        return wanted or self.surgery.needs_gradients or len(self.diagnostics) > 0

    @property
    def computes_again(self) -> str | None:
        """The method that computes the losses again, with other tensors or after the step; None if there is none."""
        weighting = self.weighting.needs_look_ahead or self.weighting.needs_losses_after
        return "this weighting" if weighting else "this surgery" if self.surgery.needs_look_ahead else None

    @property
    def host_bound(self) -> str | None:
        """The part that works on the host, so that a CUDA graph cannot contain a step; None if there is none."""
        parts = [("this weighting", self.weighting.on_host), ("this surgery", self.surgery.on_host)]
        parts += [("this diagnostic", diagnostic.on_host) for diagnostic in self._watching()]
        parts += [("several processes", self.processes.count > 1)]
        return next((name for name, on_host in parts if on_host), None)

    @property
    def needs_second_batch(self) -> bool:
        """Whether `step` needs a second batch of the same data."""
        return self.weighting.needs_look_ahead and self.weighting.looks_at_second_batch

    def step(
        self,
        task_losses: TaskLoss,
        batch: Any,
        second_batch: Any = None,
        extras: dict[str, Tensor] | None = None,
        subset: TaskSubset = ALL_TASKS,
    ) -> Metrics:
        """One update of the network's parameters. Returns tensors: loss (S,), weight (S,) and further metrics.

        second_batch: needed if `needs_second_batch`. extras: vectors (T,) for the weighting, by name. subset: the S
        tasks of the batch. Parameters that other tasks own get a gradient of zero.

        Raises:
            UserError: the second batch is missing.
        """
        update = self._update(task_losses, batch, second_batch, extras, subset)
        metrics, context = self._differentiate(update)
        if self.max_grad_norm is not None:
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        for diagnostic in self._watching():
            diagnostic.before_step(context)
        self.optimizer.step()
        for diagnostic in self._watching():
            metrics |= diagnostic.after_step(context)
        if self.weighting.needs_losses_after:
            self._learn_from_step(update, context.losses)
        self.step_count += 1
        return metrics

    def backward(self, task_losses: TaskLoss, batch: Any) -> Metrics:
        """Write the gradients of `step`, before clipping, and return metrics. The optimiser's step is the caller's."""
        metrics, _ = self._differentiate(self._update(task_losses, batch))
        self.step_count += 1
        return metrics

    def _update(
        self,
        task_losses: TaskLoss,
        batch: Any,
        second_batch: Any = None,
        extras: dict[str, Tensor] | None = None,
        subset: TaskSubset = ALL_TASKS,
    ) -> _Update:
        if self.needs_second_batch and second_batch is None:
            raise expected("This weighting", "given a second batch of the training data", second_batch)
        network = self.network.at(subset)
        factor = 1.0 / network.num_tasks if self.reduction == "mean" else 1.0
        losses = again = self.processes.losses(task_losses)
        if self.computes_again is not None or self.diagnostics:
            again = with_same_memory(with_same_noise(losses, self.primary.device), network.tensors[2])
        return _Update(network, subset, losses, again, batch, second_batch, extras or {}, factor)

    def _differentiate(self, update: _Update) -> tuple[Metrics, Context]:
        return self._per_task_step(update) if self.per_task else self._joint_step(update)

    def _watching(self) -> Iterator[Diagnostic]:
        for diagnostic in self.diagnostics:
            assert isinstance(diagnostic, Diagnostic)
            yield diagnostic

    def _context(self, losses: Tensor, update: _Update, **more: Any) -> Context:
        everywhere = update.subset.scatter(losses.detach(), self.last_weights)
        present = update.subset.present(self.everyone)
        settings = {"extras": update.extras, "generator": self.generator}
        return Context(everywhere, self.step_count, self.primary, present, **settings, **more)

    def _weights(self, context: Context, subset: TaskSubset) -> Tensor:
        """The weights (S,) of this update, after the weighting has learned from it."""
        self.weighting.update(context)
        weights = subset.gather(weights_of(self.weighting, context))
        subset.write(self.last_weights, weights)
        return weights

    def _joint_step(self, update: _Update) -> tuple[Metrics, Context]:
        found, aux = update.task_losses(*update.network.tensors, update.batch)
        losses = stacked(found)
        context = self._context(losses, update)
        weights = self._weights(context, update.subset)
        self._clear()
        torch.dot(losses, weights * update.factor).backward()
        for parameter in self.network.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.average(p.grad for p in self.network.parameters() if p.grad is not None)
        return {"loss": losses.detach(), "weight": weights, **aux}, context

    def _per_task_step(self, update: _Update) -> tuple[Metrics, Context]:
        network, factor = update.network, update.factor
        tensors, all_own, buffers = network.tensors
        if not network.shared_input:
            tensors = network.per_task_leaves()
        found, aux = update.task_losses(tensors, all_own, buffers, update.batch)
        losses = stacked(found)
        leaves, own = trained(tensors), trained(all_own)
        differentiate = self._separate_gradients if network.shared_input else self._gradients
        in_graph, owned = differentiate(found, leaves, own, create_graph=self.surgery.has_penalty)
        shared = {n: g.detach() for n, g in in_graph.items()}
        grams = self._gramians(shared, network.num_tasks)
        gram, ahead = grams.sum(0), None
        if self.weighting.needs_look_ahead or self.surgery.needs_look_ahead or self.diagnostics:
            batches = (update.batch, update.second_batch if self.needs_second_batch else update.batch)
            settings = (self.primary, factor, shared, owned, update.subset, self.processes)
            ahead = LookAhead(network, self.optimizer, update.again, *batches, *settings)
        context = self._context(losses, update, gramian=gram, look_ahead=ahead)
        weights = self._weights(context, update.subset)
        metrics = {"loss": losses.detach(), "weight": weights, **self._conflicts(gram, update.subset), **aux}
        scaled = weights * factor
        if not self.surgery.has_penalty:
            # Not in place: two parameters may share a gradient tensor, and diagnostics read it afterwards.
            combined, found = self._combined(shared, grams, weights, update, context)
            owned = {n: (g * like(scaled, g, network.owner.get(n))).to(g) for n, g in owned.items()}
            self._write(combined, owned, update.subset)
            return metrics | found, context
        penalty = self.surgery.penalty(gramian(self._blocks(in_graph)))
        shared, owned = self._gradients(torch.dot(losses, scaled) + penalty, leaves, own)
        summed = network.shared_input
        self._write({n: g if summed else g.sum(0) for n, g in shared.items()}, owned, update.subset)
        return metrics | {"penalty": penalty.detach()}, context

    def _conflicts(self, gram: Tensor, subset: TaskSubset) -> Metrics:
        """`conflict_metrics`, and `conflicts` (T, T): the share of recent updates in which two tasks conflicted.

        `conflicts` is left out where batches hold only some tasks, since each pair then meets too seldom.
        """
        metrics = conflict_metrics(gram)
        if isinstance(subset, SomeTasks):
            return metrics
        share = (self.step_count + 1).clamp(max=CONFLICT_WINDOW).reciprocal()
        self.conflict_rate.lerp_((gram < 0).to(self.conflict_rate), share)
        return metrics | {"conflicts": self.conflict_rate.clone()}

    def _blocks(self, shared: Tensors) -> list[Tensor]:
        return [block for g in shared.values() for block in rows(g, self.network.ensemble)]

    def _gramians(self, shared: Tensors, tasks: int) -> Tensor:
        """Gramians (1, S, S) float64, or (E, S, S) if each member has its own; zero if nothing is shared."""
        if not shared:
            return torch.zeros(1, tasks, tasks, dtype=torch.float64, device=self.primary.device)
        if not self.per_member:
            return gramian(self._blocks(shared)).double().unsqueeze(0)
        members = zip(*(rows(g, self.network.ensemble) for g in shared.values()), strict=True)
        return torch.stack([gramian(blocks).double() for blocks in members])

    def _combined(
        self, shared: Tensors, grams: Tensor, weights: Tensor, update: _Update, context: Context
    ) -> tuple[dict[str, Tensor], Metrics]:
        """The shared gradients after surgery, name -> (*shape), and the surgery's metrics."""
        primary, scaled = update.subset.gather(self.primary), weights * update.factor
        coefficients, metrics = self._coefficients(grams, weights.double(), primary), {}
        coefficients = coefficients if self.per_member else coefficients[0]
        if self.surgery.needs_look_ahead:
            coefficients, metrics = self.surgery.choose(coefficients, weights, context)
        coefficients = coefficients.mul(update.factor).to(weights.dtype)
        factors = {g.dtype: (coefficients.to(g.dtype), scaled.to(g.dtype)) for g in shared.values()}
        found = {n: self.surgery.combine(g, *factors[g.dtype], self.generator) for n, g in shared.items()}
        return found, metrics

    def _coefficients(self, grams: Tensor, weights: Tensor, primary: Tensor) -> Tensor:
        """Gramians (M, S, S) and weights (S,) -> coefficients (M, S), or (M, C, S) if `choose` takes one of C.

        Gramians and coefficients are those of the unweighted gradients.
        """
        found = []
        for surgery, gram in zip([self.surgery, *self._others], grams, strict=True):
            assert isinstance(surgery, Surgery)
            noise = surgery.noise(len(weights), self.generator, gram.device)
            weighted = gram * weights.unsqueeze(0) * weights.unsqueeze(1)
            # Surgery gets zeros in place of a Gramian that is not finite. The metrics show which task causes it.
            sound = torch.where(weighted.isfinite().all(), weighted, 0.0)
            found.append(weights * surgery.coefficients(sound, primary, noise))
        return torch.stack(found)

    def _clear(self) -> None:
        """Remove all gradients. The network and the optimiser may each have parameters that the other one lacks."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.network.parameters():
            parameter.grad = None

    def _write(self, shared: Tensors, own: Tensors, subset: TaskSubset) -> None:
        self._clear()
        for name, gradient in shared.items():
            parameter = self.network.shared[name]
            parameter.grad = laid_out_as(parameter, gradient)
        for name, gradient in own.items():
            parameter = self.network.own[name]
            parameter.grad = laid_out_as(parameter, subset.scatter(gradient, parameter))

    def _gradients(
        self, losses: Tensor | Sequence[Tensor], shared: Tensors, own: Tensors, *, create_graph: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradients of the losses' sum, per task where tensors have a task axis, by one backward pass."""
        found = self.processes.derivatives(stacked(losses).sum(), [*shared.values(), *own.values()], graph=create_graph)
        return dict(zip(shared, found, strict=False)), dict(zip(own, found[len(shared) :], strict=True))

    def _separate_gradients(
        self, losses: Tensor | Sequence[Tensor], shared: Tensors, own: Tensors, *, create_graph: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of T losses of the same inputs: (T, *shape) for `shared`, a pass per loss; one pass for `own`."""

        def gradients(loss: Tensor, tensors: Tensors) -> list[Tensor]:
            return self.processes.derivatives(loss, list(tensors.values()), again=True, graph=create_graph)

        tasks = [gradients(loss, shared) for loss in losses]
        found = {name: torch.stack(gradients) for name, gradients in zip(shared, zip(*tasks, strict=True), strict=True)}
        owned = gradients(stacked(losses).sum(), own) if own else []
        return found, dict(zip(own, owned, strict=True))

    @torch.no_grad()
    def _learn_from_step(self, update: _Update, before: Tensor) -> None:
        after = stacked(update.again(*update.network.tensors, update.batch)[0])
        self.weighting.after_step(before, update.subset.scatter(after, self.last_weights))
