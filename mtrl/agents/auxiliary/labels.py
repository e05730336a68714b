"""The interface of sources of auxiliary labels, and their functions: mask, softmax, focal loss, weights, entropy.

The functions are Equations 3, 5, 6 and 8 of RL-AUX, which takes its masked softmax and focal loss from MAXL (Liu et al.
2019). There are K = ψ · C auxiliary classes: ψ subclasses of each of C primary classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mtrl.core.types import Metrics
from mtrl.data.images import ImageBatch, ImageData

WEIGHT_CLASSES = 21
"""Number of weights that the label agent chooses from: w in {0, 0.05, ..., 1}."""


class Labels:
    """A source of auxiliary labels. This base class learns nothing."""

    seed: int = 0
    """The seed of the random numbers in `epoch`."""

    def epoch(self, data: ImageData, number: int, progress: Callable[[int, int], None] | None = None) -> Metrics:
        """Learn to label for one epoch. The main network is the same afterwards.

        progress: called with (done, total), in images or batches.
        """
        return {}

    def prepare(self, data: ImageData) -> None:
        """Check the data, and create what depends on them. Called before training, also in a resumed run."""

    def assign(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """A batch (1, B, ..) -> auxiliary labels (B,) or probabilities (B, K), and weights (B,). Both may be None."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""


def hierarchy_mask(labels: Tensor, num_classes: int, subclasses: int) -> Tensor:
    """Eq. 6: primary labels (B,) -> (B, K) bool, true for the auxiliary classes that belong to them."""
    owner = torch.arange(num_classes, device=labels.device).repeat_interleave(subclasses)
    return owner == labels.unsqueeze(-1)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5: softmax of logits (B, K) over the classes in the mask (B, K), and zero elsewhere."""
    return logits.masked_fill(~mask, -torch.inf).softmax(-1)


def focal_loss(logits: Tensor, target: Tensor, focusing: float) -> Tensor:
    """−Σ_k t_k (1 − p_k)^γ log p_k for each image, (B,) (Lin et al. 2017).

    logits (B, K); target: classes (B,) or probabilities (B, K); focusing: γ, where 0 gives the cross-entropy.
    """
    log_probability = logits.log_softmax(-1)
    loss = -log_probability
    if focusing:  # powers of zero may have infinite slopes
        missing = (1 - log_probability.exp()).clamp(min=torch.finfo(logits.dtype).eps)
        loss = missing**focusing * loss
    if target.ndim == logits.ndim:
        return (target * loss).sum(-1)
    return loss.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def scaled_weight(unscaled: Tensor) -> Tensor:
    """Eq. 8: w in [0, 1] -> 2^(10 w − 5), from 1/32 to 32."""
    return torch.exp2(10 * unscaled - 5)


def weight_of_class(chosen: Tensor) -> Tensor:
    """Weight classes in [0, 20], chosen by the label agent -> weights from 1/32 to 32, of the same shape."""
    return scaled_weight(chosen / (WEIGHT_CLASSES - 1))


def batch_entropy(probability: Tensor) -> Tensor:
    """H = −Σ_k p̄_k log p̄_k of the mean p̄ over a batch of label probabilities (B, K); Eq. 3 is its negative.

    A label of probability zero adds nothing, and its derivative is finite.
    """
    mean = probability.mean(0)
    return -(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()
