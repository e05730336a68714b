"""PCGrad: removes from each gradient the part that conflicts with another task's (Yu et al. 2020, Algorithm 1).

`variant` chooses one of the paper's ablations (Fig. 3). direction: PCGrad's direction with the norm of the plain sum of
gradients. magnitude: the plain sum's direction with the norm of PCGrad's result. A direction of zero is not
scaled.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl.core import native
from mtrl.core.config import option
from mtrl.gradients.base import GramianConfig, Surgery

NOTHING = 1e-12
"""A combination Σ_i c_i g_i counts as zero if its squared norm is at most this share of (Σ_i |c_i| ‖g_i‖)²: what is
left is rounding error."""
FLAGS = ("-O3", "-march=native")
SOURCE = r"""
#include <string.h>
/* gramian (tasks, tasks), orders (tasks, tasks - 1); combined (tasks, tasks) is the identity at first. */
void project(const double *gramian, const long long *orders, long tasks, double *combined) {
    for (long i = 0; i < tasks; i++) {
        double products[tasks];
        memcpy(products, gramian + i * tasks, sizeof products);
        for (long k = 0; k < tasks - 1; k++) {
            long long j = orders[i * (tasks - 1) + k];
            const double *row = gramian + j * tasks;
            if (products[j] >= 0 || !(row[j] > 0)) continue;
            double factor = products[j] / row[j];
            combined[i * tasks + j] -= factor;
            for (long l = 0; l < tasks; l++) products[l] -= factor * row[l];
        }
    }
}
"""


@dataclass
class Config(GramianConfig):
    kind: str = "pcgrad"
    variant: str = option("full", ("full", "direction", "magnitude"))
    """The full method, or an ablation that takes only its direction or only its magnitude."""


class PCGrad(Surgery):
    """Algorithm 1 on the Gramian G.

    Each task's gradient is always a linear combination Σ_j C_ij g_j of the original gradients, so the algorithm needs
    only their inner products. With P = C G, the product of the current g_i with the original g_j is P_ij. Where it is
    negative, P_ij / G_jj is subtracted from C_ij. The projections of each task have their own random order.
    Those against a zero gradient are skipped.
    """

    def __init__(self, variant: str = "full") -> None:
        super().__init__()
        self.variant = variant

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.rand(num_tasks, num_tasks, generator=generator, device=device)

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        orders = noise.clone().fill_diagonal_(2).argsort(dim=1)[:, :-1]  # sorted last: no task projects on itself
        projected = self.projected(gramian, orders).sum(0)
        if self.variant == "full":
            return projected
        plain = torch.ones_like(projected)
        direction, length = (projected, plain) if self.variant == "direction" else (plain, projected)
        norms = gramian.diagonal().clamp(min=0).sqrt()
        squares = [(c @ gramian @ c).clamp(min=0) for c in (direction, length)]
        defined = squares[0] > NOTHING * (direction.abs() @ norms).square()
        return direction * torch.where(defined, (squares[1] / torch.where(defined, squares[0], 1.0)).sqrt(), 1.0)

    @staticmethod
    def projected(gramian: Tensor, orders: Tensor) -> Tensor:
        """gramian (T, T), orders (T, T - 1) of the other tasks -> C (T, T): g_i becomes Σ_j C_ij g_j."""
        in_c = gramian.device.type == "cpu" and gramian.dtype == torch.float64 and _library() is not None
        return (projected_in_c if in_c else projected_by_columns)(gramian, orders)


@torch.library.custom_op("mtrl::pcgrad_projected", mutates_args=())
def projected_in_c(gramian: Tensor, orders: Tensor) -> Tensor:
    """`PCGrad.projected` for float64 on a CPU, as a custom operator that a compiled graph can contain.

    One call in C takes the place of the 2 (T - 1) small operations of `projected_by_columns`.
    """
    function, combined = _library(), torch.eye(len(gramian), dtype=gramian.dtype)
    assert function is not None
    gramian, orders = gramian.contiguous(), orders.contiguous()
    function(gramian.data_ptr(), orders.data_ptr(), len(gramian), combined.data_ptr())
    return combined


@projected_in_c.register_fake
def _(gramian: Tensor, orders: Tensor) -> Tensor:
    return gramian.new_empty(gramian.shape)


def projected_by_columns(gramian: Tensor, orders: Tensor) -> Tensor:
    """`PCGrad.projected` for every device and type."""
    norms = gramian.diagonal()
    factor = torch.where(norms > 0, norms.reciprocal(), 0.0)[orders]
    # Each row's columns are in its own order: its k-th projection is at column k, and the loop needs no gather.
    ordered = gramian[orders.unsqueeze(2), orders.unsqueeze(1)].mul_(factor.unsqueeze(2))
    products = gramian.gather(1, orders)
    negative = torch.empty_like(products)
    columns = (matrix.unsqueeze(2).unbind(1) for matrix in (products, negative))
    for product, part, others in zip(*columns, ordered.unbind(1), strict=True):
        torch.clamp(product, max=0, out=part)
        products.addcmul_(part, others, value=-1)
    identity = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    return identity.scatter_add_(1, orders, negative.mul_(factor).neg_())


def _library() -> Any:
    """The C function; None if it cannot be compiled."""
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p)
    return native.function(SOURCE, "project", FLAGS, "PCGrad's projections are computed by PyTorch", arguments)


def build(config: Config, *, num_tasks: int) -> Surgery:
    return PCGrad(config.variant)
