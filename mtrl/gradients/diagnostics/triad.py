"""The tragic triad: conflict, curvature and dominance of every update (Yu et al. 2020, Sec. 5.3, Fig. 4).

From the unweighted losses L = Σ_i L_i on the batch of the update, before (θ) and after (θ') the optimiser's step:
curvature: H = 2 [L(θ') − L(θ) − ∇L(θ)·(θ' − θ)], over all parameters (those owned by a task change the losses, too).
From the gradients g_i and g_j of every pair of tasks with respect to the shared parameters, at an angle φ:
magnitude_similarity: Φ = 2 ‖g_i‖ ‖g_j‖ / (‖g_i‖² + ‖g_j‖²) (Definition 2; 1 where both are zero).
xi: ξ = (1 − cos² φ) ‖g_i − g_j‖² / ‖g_i + g_j‖² (Definition 5; 0 where it is 0/0).
positive_cosine, conflict: the shares of pairs with cos φ above and below zero.
condition_a, condition_b: among the conflicting pairs, the shares with cos φ ≤ −Φ and with ξ ≤ 1. ξ ≤ 1 follows from
condition (b) of Theorem 2, whose constants are unknown. NaN where no pair conflicts.

All are means over the last `window` updates. L(θ') − L(θ) is taken in the precision of the losses, so in float32 an
H below about 10⁻⁷ L is rounding error. The cost is one more forward pass per update, and the tasks' own gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.core.types import Metrics
from mtrl.gradients.algebra import combine
from mtrl.gradients.base import Context, Diagnostic, DiagnosticConfig
from mtrl.gradients.look_ahead import LookAhead

MEANS = ("curvature", "magnitude_similarity", "xi", "positive_cosine", "conflict")
AMONG_CONFLICTS = ("condition_a", "condition_b")


@dataclass
class Config(DiagnosticConfig):
    option_group: ClassVar[str] = "diagnostics.triad"
    kind: str = "triad"
    window: int = option(100, "a positive integer")
    """Number of updates, up to the latest, over which logged values are averaged."""


class Triad(Diagnostic):
    def __init__(self, window: int) -> None:
        super().__init__()
        width = len(MEANS) + len(AMONG_CONFLICTS)
        self.history = nn.Buffer(torch.full((window, width), torch.nan, dtype=torch.float64))

    def before_step(self, context: Context) -> None:
        assert context.look_ahead is not None
        self._loss = context.losses.double().sum()
        self._gradient = list(_summed(context.look_ahead))
        self._before = [p.detach().clone() for p in _trained(context.look_ahead)]

    @torch.no_grad()
    def after_step(self, context: Context) -> Metrics:
        ahead, gramian = context.look_ahead, context.gramian
        assert ahead is not None and gramian is not None
        moves = (p - q for p, q in zip(_trained(ahead), self._before, strict=True))
        products = [torch.dot(g.flatten(), m.flatten()) for g, m in zip(self._gradient, moves, strict=True)]
        along = torch.stack(products).double().sum()
        change = ahead.losses({}, {}, ahead.batch).double().sum() - self._loss
        del self._gradient, self._before
        row = torch.cat([2 * (change - along).reshape(1), pair_statistics(gramian)])
        place = (context.step % len(self.history)).reshape(1)
        self.history.index_copy_(0, place, row.unsqueeze(0))
        return {f"triad/{name}": value for name, value in self._means().items()}

    def _means(self) -> Metrics:
        values = self.history.nanmean(0)
        conflicts = values[MEANS.index("conflict")]
        shares = values[len(MEANS) :] / conflicts
        return dict(zip(MEANS + AMONG_CONFLICTS, torch.cat([values[: len(MEANS)], shares]), strict=True))


def pair_statistics(gramian: Tensor) -> Tensor:
    """A Gramian (T, T) -> (6,): the means of Φ and ξ over pairs, and four shares of pairs.

    The shares are those with cos > 0; with cos < 0; with cos < 0 and condition (a); and with cos < 0 and ξ ≤ 1. All are
    NaN for one task, which has no pairs.
    """
    i, j = torch.triu_indices(len(gramian), len(gramian), 1, device=gramian.device)
    squares = gramian.diagonal().clamp(min=0)
    first, second, product = squares[i], squares[j], gramian[i, j]
    lengths = (first * second).sqrt()
    total = first + second
    similarity = _quotient(2 * lengths, total, 1.0)
    cosine = _quotient(product, lengths, 0.0).clamp(-1, 1)
    xi = _quotient((1 - cosine.square()) * (total - 2 * product), (total + 2 * product).clamp(min=0), 0.0)
    conflict = cosine < 0
    columns = (similarity, xi, cosine > 0, conflict, conflict & (cosine <= -similarity), conflict & (xi <= 1))
    return torch.stack([column.double().mean() for column in columns])


def _quotient(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """The quotient, or `otherwise` where the denominator is zero."""
    defined = denominator > 0
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), otherwise)


def _trained(ahead: LookAhead) -> Iterator[Tensor]:
    yield from (ahead.network.shared[name] for name in ahead.shared)
    yield from (ahead.network.own[name] for name in ahead.own)


def _summed(ahead: LookAhead) -> Iterator[Tensor]:
    """∇ Σ_i L_i(θ), in the order of `_trained`. An owned parameter affects only its own task's loss."""
    ones = ahead.primary.new_ones(len(ahead.primary), dtype=torch.float64)
    for gradient in ahead.shared.values():
        yield combine(gradient, ones.to(gradient))
    yield from ahead.own.values()


def build(config: Config, *, num_tasks: int, part: str | None) -> Diagnostic:
    return Triad(config.window)
