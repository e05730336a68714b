"""Linear algebra on per-task gradients kept as blocks, one (T, n) matrix per tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 4096
"""Columns multiplied at once: a product of few rows and very many columns runs on one core otherwise."""

HEAD = 32
"""Rows of a block of the product: beyond them, half of the blocks follow from the other half."""


def rows(gradient: Tensor, ensemble: int | None) -> list[Tensor]:
    """A per-task gradient (T, *shape) or (T, E, *shape) as (T, n) matrices, without a copy.

    Gradients of an ensemble come out of the backward pass stored member by member.
    """
    return [gradient.flatten(1)] if ensemble is None else [member.flatten(1) for member in gradient.unbind(1)]


def gramian(blocks: Sequence[Tensor]) -> Tensor:
    """Inner products of the tasks' gradients: blocks (T, n_b) -> (T, T), in full precision of their type."""
    small = [b for b in blocks if b.shape[1] < CHUNK]
    large = [b for b in blocks if b.shape[1] >= CHUNK]
    joined = [*large, torch.cat(small, 1)] if small else large
    with full_float32():
        products = [_block_gramian(block) for block in joined]
    return torch.stack(products).sum(0)


def _block_gramian(block: Tensor) -> Tensor:
    whole = block.shape[1] // CHUNK * CHUNK
    rest = block[:, whole:]
    product = rest @ rest.T
    if whole:
        chunks = block[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1)
        product = product + _symmetric_product(chunks)
    return product


def _symmetric_product(chunks: Tensor) -> Tensor:
    """Σ_c chunk chunkᵀ for chunks (C, T, n), (T, T): the upper blocks beyond the first `HEAD` rows are mirrored."""
    left = torch.bmm(chunks, chunks[:, :HEAD].mT).sum(0)
    if chunks.shape[1] <= HEAD:
        return left
    right = torch.cat([left[HEAD:].T, _symmetric_product(chunks[:, HEAD:])])
    return torch.cat([left, right], 1)


def combine(gradient: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_t c_t g_t for a per-task gradient (T, *shape), whatever its memory layout."""
    if gradient.is_contiguous() or gradient.ndim < 3 or not gradient[:, 0].is_contiguous():
        return torch.mv(gradient.reshape(len(gradient), -1).T, coefficients).view(gradient.shape[1:])
    return torch.stack([combine(member, coefficients) for member in gradient.unbind(1)])


class full_float32:
    """Products in full float32 whatever the precision set elsewhere: TF32 can flip the sign of a conflict."""

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        if self._before != "highest":
            torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        if self._before != "highest":
            torch.set_float32_matmul_precision(self._before)
