"""Modules that map a Gramian (T, T) to weights (T,): an exact solver for MGDA, and adapters for torchjd's modules."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ShortestVector(nn.Module):
    """MGDA's min ‖Σ α_i g_i‖ over α ≥ 0 with Σ α_i = 1, as a quadratic programme.

    In the unknowns x_i = α_i ‖g_i‖ / min_j ‖g_j‖, the matrix holds the cosines, so the norms of the gradients do not
    affect its condition number. All weights are 1/T if the solver fails. torchjd's own solver stops after 100 steps of
    Frank-Wolfe, which for ten tasks is several per cent from the minimum.
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
        # The shift grows until the matrix is positive definite despite rounding, so that the solution is unique.
        for shift in (1e-13, 1e-11, 1e-9):
            with contextlib.suppress(ValueError):
                found = self._solve(cosines + shift * identity, np.zeros(count), constraints, bounds, 1)[0]
                weights = torch.from_numpy(found * lengths).clamp(min=0)
                return weights / weights.sum()
        return torch.full_like(norms, 1 / count)


class WithoutZeros(nn.Module):
    """Gives weight 0 to tasks with a zero gradient, whose weight would be unbounded, and solves for the others."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: Tensor) -> Tensor:
        kept = gramian.diagonal() > 1e-16
        weights = torch.zeros_like(gramian.diagonal())
        weights[kept] = self.weighting(gramian[kept][:, kept])
        return weights


class OnRoot(nn.Module):
    """Gives a root R of the Gramian G, with R Rᵀ = G, to a method that takes gradients but uses only their Gramian."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        return self.weighting(vectors * values.clamp(min=0).sqrt())


@functools.cache
def openblas() -> Any:
    """A handle to limit the threads of SciPy's and NumPy's OpenBLAS. With T×T matrices several threads gain nothing,
    and they spin for a tenth of a second afterwards, which slows down this update and the next."""
    import scipy.linalg  # noqa: F401 (which loads its library)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")
