"""Distributions of a task's code, given a set of its transitions: Gaussian factors, their product, the triplet loss.

As in PEARL (Rakelly et al. 2019) and MBML (Li et al. 2020); see `mbml`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.types import Transitions
from mtrl.networks.layers import Linear, Torso

_LEAST_VARIANCE = 1e-7


class Gaussian(NamedTuple):
    """Gaussian distributions of codes, with diagonal covariance."""

    mean: Tensor
    """(.., Z)"""
    variance: Tensor
    """(.., Z)"""


def product(factors: Gaussian, weight: Tensor | None = None) -> Gaussian:
    """The normalised product (.., Z) of K factors (.., K, Z). weight (.., K): 1 for each factor that counts, else 0.

    1 / σ² = Σ_k 1 / σ_k², μ = σ² Σ_k μ_k / σ_k². Where no factor counts, the result is N(0, 1).
    """
    precision = 1 / factors.variance.clamp(min=_LEAST_VARIANCE)
    if weight is not None:
        precision = precision * weight.unsqueeze(-1)
    total, weighted = precision.sum(-2), (precision * factors.mean).sum(-2)
    total = torch.where(total > 0, total, torch.ones_like(total))
    return Gaussian(weighted / total, 1 / total)


def divergence(first: Gaussian, second: Gaussian) -> Tensor:
    """KL(first ‖ second), (..)."""
    ratio = first.variance / second.variance
    apart = (first.mean - second.mean).square() / second.variance
    return 0.5 * (ratio - 1 - ratio.log() + apart).sum(-1)


def triplet_loss(anchor: Gaussian, positive: Gaussian, negative: Gaussian, margin: float) -> Tensor:
    """max(0, KL(anchor ‖ positive) − KL(anchor ‖ negative) + m), (..)."""
    return F.relu(divergence(anchor, positive) - divergence(anchor, negative) + margin)


def encoder(network: Any, inputs: int, outputs: int) -> Callable[[], nn.Module]:
    """The factory of the encoder. It does not get the task's code, since it has to infer that code.

    network: the configuration that gives the hidden layers; inputs, outputs: the sizes of a row and of its output.
    """
    return lambda: nn.Sequential(Torso.of(network, inputs), Linear(network.width, outputs))


def factors_of(output: Tensor, shape: Sequence[int]) -> Gaussian:
    """The encoder's output (T, rows, 2 Z) as factors (*shape, Z). shape: (T, ..), the axes before flattening."""
    mean, raw = output.unflatten(1, tuple(shape[1:])).chunk(2, -1)
    return Gaussian(mean, F.softplus(raw))


def as_rows(batch: Transitions) -> Tensor:
    """A batch (T, M, ..) as rows [s, a, s', r], (T, M, C) with C = 2 O + A + 1."""
    parts = (batch.observation, batch.action, batch.next_observation, batch.reward.unsqueeze(-1))
    return torch.cat(parts, -1)
