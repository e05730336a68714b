"""Inner products of a few very long rows, in C: twice as fast as BLAS libraries, which are optimised for other shapes.

Only half of the products are computed, in tiles whose sums stay in registers. Pieces of 4096 columns are summed in
float32, and these sums in float64, in an order that does not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl.core import native

PARTS = 16
"""The number of partial sums, and so the most threads that can be used."""
FLAGS = ("-O3", "-march=native", "-fopenmp")
SOURCE = r"""
#include <string.h>
#if defined(__AVX512F__)
enum { LANES = 16, TILE = 5 };
#elif defined(__FMA__) || defined(__aarch64__)
enum { LANES = 8, TILE = 3 };
#else
#error "no fused multiply-add: a BLAS is faster"
#endif
enum { COLUMNS = 4096 };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* Adds the products of TILE rows from i and TILE rows from j, over the columns from first to last. */
static void tile(const float **rows, long tasks, long i, long j, long first, long last, double *sums) {
    const float *left[TILE], *right[TILE];
    lanes products[TILE][TILE];
    long column = first;
    for (long k = 0; k < TILE; k++) {  /* beyond the last row, repeat it; those products are dropped */
        left[k] = rows[i + k < tasks ? i + k : tasks - 1];
        right[k] = rows[j + k < tasks ? j + k : tasks - 1];
    }
    memset(products, 0, sizeof products);
    for (; column + LANES <= last; column += LANES)
        for (long k = 0; k < TILE; k++) {
            lanes value = *(const lanes *)(left[k] + column);
            for (long l = 0; l < TILE; l++) products[k][l] += value * *(const lanes *)(right[l] + column);
        }
    for (long k = 0; k < TILE && i + k < tasks; k++)
        for (long l = 0; l < TILE && j + l < tasks; l++) {
            float sum = 0;
            for (long rest = column; rest < last; rest++) sum += left[k][rest] * right[l][rest];
            for (long lane = 0; lane < LANES; lane++) sum += products[k][l][lane];
            sums[(i + k) * tasks + j + l] += sum;
        }
}

/* sums (parts, tasks, tasks): part k sums pieces k, k + parts, ... of the blocks' columns. Use only the lower halves.
   Returns whether a sum is near the end of float32's range, or beyond. */
long gramian(const float **blocks, const long *widths, const long *strides, long count, long tasks, long parts,
             double *sums) {
    #pragma omp parallel for schedule(static)
    for (long part = 0; part < parts; part++) {
        const float *rows[tasks];
        double *own = sums + part * tasks * tasks;
        long piece = 0;
        for (long block = 0; block < count; block++) {
            for (long task = 0; task < tasks; task++) rows[task] = blocks[block] + task * strides[block];
            for (long first = 0; first < widths[block]; first += COLUMNS, piece++) {
                if (piece % parts != part) continue;
                long last = first + COLUMNS < widths[block] ? first + COLUMNS : widths[block];
                for (long i = 0; i < tasks; i += TILE)
                    for (long j = 0; j <= i; j += TILE) tile(rows, tasks, i, j, first, last, own);
            }
        }
    }
    long beyond = 0;
    for (long k = 0; k < parts * tasks * tasks; k++) beyond |= !(sums[k] > -1e37 && sums[k] < 1e37);
    return beyond;
}
"""


def takes(blocks: Sequence[Tensor]) -> bool:
    """Whether `gramian` can be used: the blocks are float32, on a CPU, need no gradient, and the C code compiles."""
    kind = all(b.dtype == torch.float32 and b.device.type == "cpu" and not b.requires_grad for b in blocks)
    return kind and _library() is not None


@torch.library.custom_op("mtrl::gramian", mutates_args=())
def gramian(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks (T, n_b) -> their Gramian (T, T), float64, as a custom operator that a compiled graph can contain.

    It has the precision of float32, but large products stay finite: if a sum comes near float32's limit, all products
    are computed again, in float64.
    """
    function, tasks, count = _library(), len(blocks[0]), len(blocks)
    assert function is not None
    rows = [block if block.stride(1) == 1 or block.shape[1] == 1 else block.contiguous() for block in blocks]
    sums = torch.zeros(PARTS, tasks, tasks, dtype=torch.float64)
    numbers, addresses = ctypes.c_long * count, (ctypes.c_void_p * count)(*(row.data_ptr() for row in rows))
    widths, strides = numbers(*(row.shape[1] for row in rows)), numbers(*(row.stride(0) for row in rows))
    if function(addresses, widths, strides, count, tasks, PARTS, sums.data_ptr()):
        return torch.stack([(block := row.double()) @ block.T for row in rows]).sum(0)
    lower = sums.sum(0).tril_()
    return torch.add(lower, lower.tril(-1).T).to(torch.float32).double()


@gramian.register_fake
def _(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0].new_empty(len(blocks[0]), len(blocks[0]), dtype=torch.float64)


def _library() -> Any:
    """The C function; None if it cannot be compiled."""
    arguments = (*[ctypes.c_void_p] * 3, *[ctypes.c_long] * 3, ctypes.c_void_p)
    return native.function(SOURCE, "gramian", FLAGS, "Inner products are computed by BLAS", arguments, ctypes.c_long)
