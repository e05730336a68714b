"""Learning by several processes: each takes its share of every task's batch, as one process would take the whole.

The losses of a task, and its gradients, are averaged over the processes as soon as they are computed. So everything
that follows from them, the Gramian and surgery, weights and trial steps, is that of the whole batch, and the same in
every process. Averaging the gradient after surgery, as `DistributedDataParallel` would, is not: projections of parts
of a batch are not parts of its projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mtrl.core.errors import expected
from mtrl.core.types import Metrics, TaskLoss, Tensors

B = TypeVar("B")


class Processes:
    """P processes that make updates together, or this one alone.

    All have the same parameters and draw the same random numbers. Each process calls every method, in the same order.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.count = 1 if group is None else dist.get_world_size(group)
        """P"""
        self.rank = 0 if group is None else dist.get_rank(group)

    def share(self, batch: B) -> B:
        """This process's part of a batch: of all tensors in nested tuples, the P-th part of their second axis.

        Raises:
            UserError: that axis cannot be divided by P.
        """
        if self.count == 1:
            return batch
        if isinstance(batch, tuple):
            parts = [self.share(part) for part in batch]
            return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)  # type: ignore[return-value]
        if not isinstance(batch, Tensor):
            return batch
        if batch.shape[1] % self.count:
            what = f"of a multiple of {self.count} samples of each task, as so many processes learn"
            raise expected("A batch", what, batch.shape[1])
        return batch.chunk(self.count, 1)[self.rank]  # type: ignore[return-value]

    def whole(self, share: Tensor) -> Tensor:
        """The shares (T, B / P, ..) of all processes -> (T, B, ..). No gradient flows through it."""
        if self.count == 1:
            return share
        parts = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, share.detach().contiguous(), self.group)
        return torch.cat(parts, 1)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors that have the same shapes in every process -> their means. Gradients of these are averaged too."""
        found = list(tensors)
        for places in self._by_kind(found):
            flat = _Mean.apply(torch.cat([found[i].reshape(-1) for i in places]), self)
            for i, part in zip(places, flat.split([found[i].numel() for i in places]), strict=True):
                found[i] = part.view(found[i].shape)
        return found

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """`mean`, in place."""
        if self.count > 1:
            found = list(tensors)
            for tensor, mean in zip(found, self.mean(found), strict=True):
                tensor.copy_(mean)

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have in the first process, in place."""
        found = list(tensors)
        for places in self._by_kind(found):
            flat = torch.cat([found[i].reshape(-1) for i in places])
            dist.broadcast(flat, group=self.group, group_src=0)
            for i, part in zip(places, flat.split([found[i].numel() for i in places]), strict=True):
                found[i].copy_(part.view(found[i].shape))

    def _by_kind(self, tensors: Sequence[Tensor]) -> Iterator[list[int]]:
        """The places of tensors of one type each, which travel together; none where this process is alone."""
        for kind in dict.fromkeys(t.dtype for t in tensors) if self.count > 1 else ():
            yield [i for i, t in enumerate(tensors) if t.dtype == kind]

    def losses(self, task_losses: TaskLoss) -> TaskLoss:
        """The same losses of the whole batch, each connected to the graph of this process's share, and the means of
        what comes with them."""
        if self.count == 1:
            return task_losses

        def averaged(
            shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any
        ) -> tuple[Tensor | Sequence[Tensor], Metrics]:
            found, aux = task_losses(shared, own, own_buffers, batch)
            names = [name for name, value in aux.items() if value.is_floating_point()]
            losses = found if isinstance(found, Tensor) else torch.stack([*found])
            mean, *rest = self.mean([losses.detach(), *(aux[name] for name in names)])
            aux = {**aux, **dict(zip(names, rest, strict=True))}
            if isinstance(found, Tensor):
                return _Valued.apply(found, mean), aux
            return [_Valued.apply(loss, value) for loss, value in zip(found, mean.unbind(), strict=True)], aux

        return averaged

    def derivatives(
        self, value: Tensor, by: Sequence[Tensor], *, again: bool = False, graph: bool = False
    ) -> list[Tensor]:
        """The gradients of a scalar, means over the processes; zero by a tensor that it does not depend on.

        again: the graph of `value` will be differentiated once more; graph: so will the gradients.
        """
        kept = again or graph
        found = torch.autograd.grad(value, by, None, kept, graph, allow_unused=True, materialize_grads=True)
        return self.mean(found)


class _Mean(torch.autograd.Function):
    """The mean over processes. A loss of it depends on the tensor of every process, so its gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        found = tensor.clone()
        dist.all_reduce(found, group=processes.group)
        return found.div_(processes.count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Mean.apply(grads[0].contiguous(), ctx.processes), None


class _Valued(torch.autograd.Function):
    """A tensor's graph with another value."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
