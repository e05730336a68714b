"""PCGrad: project away the conflicting part of every other task's gradient (Yu et al. 2020, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.gradients.base import Surgery


@dataclass
class Config:
    kind: str = "pcgrad"


class PCGrad(Surgery):
    """Algorithm 1 on the Gramian.

    Task i's gradient only ever becomes a combination c_i of the original gradients, so the algorithm needs
    their inner products alone: with P = C G, the product of the current g_i with the original g_j is P_ij,
    and where it is negative c_ij falls by P_ij / G_jj. All tasks take their k-th projection at once, each
    in its own random order. A zero gradient has nothing to project on and is skipped.
    """

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.rand(num_tasks, num_tasks, generator=generator, device=device)

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return self.projected(gramian, noise.argsort(dim=1)).sum(0)

    @staticmethod
    def projected(gramian: Tensor, orders: Tensor) -> Tensor:
        """gramian (T, T), orders (T, T) permutations of the tasks -> C (T, T): g_i becomes Σ_j C_ij g_j."""
        tasks = torch.arange(len(gramian), device=gramian.device)
        inverse = torch.where(gramian.diagonal() > 0, 1 / gramian.diagonal(), 0.0)
        coefficients = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
        products = gramian.clone()
        for others in orders.T:
            inner = products.gather(1, others.unsqueeze(1)).squeeze(1)
            change = -inner.clamp(max=0) * inverse[others] * (others != tasks)
            coefficients[tasks, others] += change
            products.addcmul_(change.unsqueeze(1), gramian[others])
        return coefficients


def build(config: Config) -> Surgery:
    return PCGrad()
