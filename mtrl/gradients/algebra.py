"""Linear algebra on per-task gradients, which are kept as blocks: one (T, n) matrix per tensor.

Float32 products have full precision, whatever the networks use: TF32 can flip the sign of an inner product, and so hide
or invent a conflict.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl.core.types import Metrics, Tensors
from mtrl.execution.precision import float32_products
from mtrl.gradients import inner_products

CHUNK = 4096
"""The most columns of a block in one product of a Gramian. PyTorch computes a product of few rows and very
many columns on only one core."""

GPU_CHUNK = 512
"""The same on a GPU. With few rows, only hundreds of products at once keep it busy."""

HEAD = 32
"""Columns of the Gramian that one product computes if there are more tasks than this; otherwise half as many."""


def rows(gradient: Tensor, ensemble: int | None) -> list[Tensor]:
    """A per-task gradient (T, *shape) or (T, E, *shape) as one (T, n) matrix, or one for each of E members.

    The entries of a row are in memory order, so that nothing is copied. The backward pass stores the gradients of an
    ensemble member by member.
    """
    stored = _as_stored(gradient)
    members = [stored] if ensemble is None else stored.unbind(1)
    return [member.reshape(len(member), -1) for member in members]


def _as_stored(gradient: Tensor) -> Tensor:
    """The gradient in memory order: its last two axes are swapped if it is stored transposed."""
    transposed = gradient.ndim > 2 and gradient.stride(-1) > gradient.stride(-2)
    return gradient.mT if transposed else gradient


def gramian(blocks: Sequence[Tensor]) -> Tensor:
    """Inner products of the tasks' gradients: blocks (T, n_b) -> (T, T), in the full precision of their type.

    On a CPU with a C compiler, float32 blocks that need no gradient give float64, so that large products stay finite.
    """
    if inner_products.takes(blocks):
        return inner_products.gramian(list(blocks))
    chunks, rests = _split(blocks)
    if rests and rests[0].is_cuda:
        more, rests = _split([torch.cat(rests, 1)])
        chunks += more
    chunks += [torch.cat(rests, 1).unsqueeze(0)] if rests else []
    with float32_products("highest"):
        return _symmetric_product(chunks, HEAD if len(blocks[0]) > HEAD else HEAD // 2)


def _split(blocks: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The chunks of all blocks and the remaining columns of all blocks, both without empty tensors."""
    split = [_chunks(block, GPU_CHUNK if block.is_cuda else CHUNK) for block in blocks]
    return [equal for equal, _ in split if equal.numel()], [rest for _, rest in split if rest.numel()]


def _chunks(block: Tensor, widest: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Views of a block (T, n): C chunks of equal width (C, T, c), with C = 0 if it is narrow, and the other columns."""
    columns = block.shape[1]
    count = math.ceil(columns / widest) if columns >= widest else 0
    if count and block.is_cuda:
        count = _even_count(columns, count)
    whole = columns // count * count if count else 0
    return block[:, :whole].unflatten(1, (count, whole // max(count, 1))).transpose(0, 1), block[:, whole:]


@functools.cache
def _even_count(columns: int, least: int) -> int:
    """A number of chunks, from `least` to 2 · `least`, whose widths are multiples of 4; `least` if there is none."""
    return next((count for count in range(least, 2 * least + 1) if columns % (4 * count) == 0), least)


def _symmetric_product(chunks: Sequence[Tensor], head: int) -> Tensor:
    """Σ chunk chunkᵀ over chunks (C, T, n) -> (T, T). Blocks above the diagonal are copies of those below it."""
    left = torch.cat([torch.bmm(chunk, chunk[:, :head].mT) for chunk in chunks]).sum(0)
    if len(left) <= head:
        return left
    right = torch.cat([left[head:].T, _symmetric_product([chunk[:, head:] for chunk in chunks], head)])
    return torch.cat([left, right], 1)


def combine(gradient: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_t c_t g_t, (*shape), for a per-task gradient (T, *shape) in any memory layout.

    coefficients: (T,); or (E, T), one row for each member of a gradient (T, E, *shape).
    """
    stored = _as_stored(gradient)
    with float32_products("highest"):
        if coefficients.ndim == 1 and (stored.is_contiguous() or stored.ndim < 3):
            product = _combined(stored.reshape(len(stored), -1), coefficients)
        else:
            members = stored.transpose(0, 1).flatten(2)
            product = torch.bmm(coefficients.expand(len(members), -1).unsqueeze(1), members)
    product = product.view(stored.shape[1:])
    return product if stored is gradient else product.mT.contiguous()


def _combined(block: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_t c_t block[t]: a block (T, n) -> (n,)."""
    equal, rest = _chunks(block, 4 * CHUNK)
    parts = [torch.bmm(coefficients.expand(len(equal), 1, -1), equal).flatten()] if len(equal) else []
    parts += [torch.mv(rest.T, coefficients)] if rest.numel() or not parts else []
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def along(gradient: Tensor, direction: Tensor, ensemble: int | None) -> Tensor:
    """⟨g_t, d⟩, (T,), for a per-task gradient (T, *shape) or (T, E, *shape) and a direction without the task axis."""
    stored = _as_stored(gradient)
    direction = direction if stored is gradient else direction.mT
    members = [direction] if ensemble is None else direction.unbind(0)
    with float32_products("highest"):
        parts = [torch.mv(g, d.flatten()) for g, d in zip(rows(stored, ensemble), members, strict=True)]
    return torch.stack(parts).sum(0)


def like(weights: Tensor, gradient: Tensor, owner: int | None = None) -> Tensor:
    """weights (T,) shaped to multiply a gradient (T, *shape); for a gradient of task `owner`, that task's weight."""
    return weights.view(-1, *[1] * (gradient.ndim - 1)) if owner is None else weights[owner]


def trained(tensors: Tensors) -> dict[str, Tensor]:
    """Those that require a gradient."""
    return {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout, since a fused optimiser reads both in memory order."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def stacked(losses: Tensor | Sequence[Tensor]) -> Tensor:
    """Losses as one tensor (T,)."""
    return losses if isinstance(losses, Tensor) else torch.stack(list(losses))


def conflict_metrics(gram: Tensor) -> Metrics:
    """From a Gramian (T, T): gradient norms (T,), cosines (T, T) and the share () of pairs with a negative cosine."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    cosine = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp(min=torch.finfo(gram.dtype).tiny)
    conflict = (gram < 0).sum() / max(len(gram) * (len(gram) - 1), 1)
    return {"task_grad_norm": norms, "cosine": cosine, "conflict": conflict}
