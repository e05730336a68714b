"""Modules that map a Gramian (T, T) to weights (T,): one that torchjd lacks, and adapters for torchjd's own."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ShortestVector(nn.Module):
    """min ‖Σ α_i g_i‖ over α ≥ 0 with Σ α_i = 1, as a quadratic programme.

    In the unknowns x_i = α_i ‖g_i‖ / min_j ‖g_j‖ the matrix holds the cosines, so the lengths of the gradients do not
    affect its condition. torchjd stops after 100 steps of Frank-Wolfe, for ten tasks several per cent from the minimum.
    """

    def __init__(self) -> None:
        super().__init__()
        from quadprog import solve_qp

        self._solve: Any = solve_qp

    def forward(self, gramian: Tensor) -> Tensor:
        norms = gramian.diagonal().clamp(min=0).sqrt()
        if not norms.all():  # a zero gradient is the shortest vector
            return (norms == 0).to(gramian) / (norms == 0).sum()
        lengths = (norms.min() / norms).numpy()
        cosines = (gramian / norms / norms.unsqueeze(1)).numpy()
        count = len(lengths)
        identity = np.eye(count)
        constraints, bounds = np.column_stack([lengths, identity]), np.append(1.0, np.zeros(count))
        # A shift just large enough to make the matrix positive definite despite rounding, and so the answer unique.
        for shift in (1e-13, 1e-11, 1e-9):
            with contextlib.suppress(ValueError):
                found = self._solve(cosines + shift * identity, np.zeros(count), constraints, bounds, 1)[0]
                weights = torch.from_numpy(found * lengths).clamp(min=0)
                return weights / weights.sum()
        return torch.full_like(norms, 1 / count)


class WithoutZeros(nn.Module):
    """Solves for the tasks that have a gradient; the weight of a zero gradient would grow without end."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: Tensor) -> Tensor:
        kept = gramian.diagonal() > 1e-16
        weights = torch.zeros_like(gramian.diagonal())
        weights[kept] = self.weighting(gramian[kept][:, kept])
        return weights


class OnRoot(nn.Module):
    """For a method that asks for the gradients but uses only their Gramian G: gives it a root R of G, R Rᵀ = G."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        return self.weighting(vectors * values.clamp(min=0).sqrt())


@functools.cache
def openblas() -> Any:
    """The OpenBLAS of SciPy and NumPy, for limiting its threads: on matrices of T rows they gain nothing, and
    afterwards they spin for a tenth of a second, which slows this update and the next."""
    import scipy.linalg  # noqa: F401 (which loads its library)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")
