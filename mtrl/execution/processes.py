"""Training in several processes, each of which takes its share of every task's batch.

Each task's loss and gradients are averaged over the processes as soon as they are computed. So everything that follows
(Gramian, surgery, weights and trial steps) is that of the whole batch, and the same in every process. Averaging the
gradients after surgery, as `DistributedDataParallel` would, gives another result: the mean of the projections for parts
of a batch is not the projection for the whole batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mtrl.core.errors import expected
from mtrl.core.types import Metrics, TaskLoss, Tensors

if dist.is_available():
    # When torch.distributed.nn is imported, it keeps the default process group of that moment. PyTorch's optimisers
    # import it. If the first import came after `init_process_group`, it would keep the group's threads alive until
    # Python exits, and they could abort the process.
    importlib.import_module("torch.distributed.nn")

B = TypeVar("B")


class Processes:
    """W processes that compute updates together, or only this one.

    All have the same parameters and draw the same random numbers. All must call the same methods in the same order.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """group: the group of the processes; None for only this process."""
        # The default group is also stored as None: a reference to it would keep its threads alive, too.
        self.group = None if group is None or group is dist.group.WORLD else group
        self.count = 1 if group is None else dist.get_world_size(group)
        """W"""
        self.rank = 0 if group is None else dist.get_rank(group)

    def share(self, batch: B) -> B:
        """This process's share of a batch: 1/W of the second axis of all tensors in nested tuples.

        Raises:
            UserError: the length of that axis is not a multiple of W.
        """
        if self.count == 1:
            return batch
        if isinstance(batch, tuple):
            parts = [self.share(part) for part in batch]
            return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)  # type: ignore[return-value]
        if not isinstance(batch, Tensor):
            return batch
        if batch.shape[1] % self.count:
            what = f"a multiple of {self.count}, the number of processes"
            raise expected("The number of samples of each task in a batch", what, batch.shape[1])
        return batch.chunk(self.count, 1)[self.rank]  # type: ignore[return-value]

    def whole(self, share: Tensor) -> Tensor:
        """The shares (T, B / W, ..) of all processes -> (T, B, ..). With W > 1, no gradient flows through it."""
        if self.count == 1:
            return share
        parts = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, share.detach().contiguous(), self.group)
        return torch.cat(parts, 1)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over the processes, which all give the same shapes. Gradients are averaged, too."""
        found = list(tensors)
        for places in self._by_kind(found):
            flat = _Mean.apply(torch.cat([found[i].reshape(-1) for i in places]), self)
            for i, part in zip(places, flat.split([found[i].numel() for i in places]), strict=True):
                found[i] = part.view(found[i].shape)
        return found

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place. No gradient flows through it."""
        if self.count > 1:
            found = list(tensors)
            for tensor, mean in zip(found, self.mean(found), strict=True):
                tensor.copy_(mean)

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's values into the tensors of all processes."""
        found = list(tensors)
        for places in self._by_kind(found):
            flat = torch.cat([found[i].reshape(-1) for i in places])
            dist.broadcast(flat, group=self.group, group_src=0)
            for i, part in zip(places, flat.split([found[i].numel() for i in places]), strict=True):
                found[i].copy_(part.view(found[i].shape))

    def _by_kind(self, tensors: Sequence[Tensor]) -> Iterator[list[int]]:
        """Yield the indexes of the tensors of each dtype, to be sent together; nothing if this process is alone."""
        for kind in dict.fromkeys(t.dtype for t in tensors) if self.count > 1 else ():
            yield [i for i, t in enumerate(tensors) if t.dtype == kind]

    def losses(self, task_losses: TaskLoss) -> TaskLoss:
        """A version of `task_losses` whose losses have the mean values over the processes, and this process's graphs.

        Floating-point metrics are averaged, too.
        """
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
        """The gradients of `value` () with respect to each tensor in `by`, averaged over the processes.

        A tensor on which the value does not depend has a gradient of zero.

        again: whether the graph of `value` will be used again; graph: whether the gradients will be differentiated.
        """
        kept = again or graph
        found = torch.autograd.grad(value, by, None, kept, graph, allow_unused=True, materialize_grads=True)
        return self.mean(found)


class _Mean(torch.autograd.Function):
    """The mean over the processes. Every process's loss depends on all of their tensors, so gradients are averaged."""

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
    """Gives a tensor another value, but keeps its graph."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
