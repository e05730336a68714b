"""Semantic matching: tasks with the same classes learn similar features of each class, and learn from each other.

Zhou, Chaib-draa & Wang, "Multi-task Learning by Leveraging the Semantic Information", AAAI 2021. Task t has a head h_t
on shared features, relations α_t to all tasks, which sum to one, and the centroid of each class's features, C_t:

    L_t = Σ_i α_ti R_i(h_t) + λ Σ_i α_ti d(C_t, C_i)
    α_t = argmin Σ_i α_i (c₁ R_i(h_t) + c₃ d(C_t, C_i)) + c₂ ‖α‖₂ over the simplex

R_i(h_t) is the mean cross-entropy of head t on the images of task i, in which each class has the same total weight (an
image's weight is the ratio of a uniform label distribution to the task's). d is the mean squared difference of the
centroids over the classes that have occurred in both tasks. Centroids are moving averages over batches. Gradients pass
only through the newest batch.

Only the abstract of the paper was at hand, so the equations follow its authors' code (fanzhouai/SMTL). Ours differs
from that code mainly in this. A class that a batch lacks keeps its centroid; in theirs the centroid falls towards zero.
Centroids are means of the features before the heads; in theirs, of the output of a head's first layer. Each distance
has a weight of its own, α_ti; in theirs, all distances have that of the last pair of tasks. Class weights multiply the
losses; in theirs, a sampler applies them, but not for digits. We solve for α at each update, from moving averages of R
and d. Theirs solves for α after each epoch but the first, and leaves R at zero; for digits it also leaves d at zero, so
that all relations become equal there. Their code has c₁ = c₂ = 1, c₃ = 0.5, λ = 0.1. Our defaults of c₁, c₃ and λ were
chosen with seeds that no published result uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.agents import supervised
from mtrl.agents.supervised import SupervisedLearner
from mtrl.core.config import check, option
from mtrl.core.specs import ImageSpec
from mtrl.core.types import Metrics, Tensors
from mtrl.data.images import ImageBatch
from mtrl.networks import TaskNetwork
from mtrl.networks.layers import Linear, owned
from mtrl.networks.trial import build_trunk

AVERAGING = 0.02
"""Weight of a new batch in the moving averages of the errors R and the distances d."""


@dataclass
class Config(supervised.Config):
    divides_batches: ClassVar[bool] = False  # each process would have centroids of its own share only
    kind: str = "matching"
    semantic_weight: float = option(1.0, "0 or more")
    """λ: weight of the distances between centroids in the loss."""
    centroid_rate: float = option(0.3, "in (0, 1]")
    """Weight of a new batch in the moving averages of the centroids."""
    relations: str = option("learned", ("learned", "equal", "own"))
    """Relations α: learned, equal (for all tasks) or own. With own, each head learns only from its own task's images,
    and the distances of all centroids have equal weights."""
    error_weight: float = option(0.0, "0 or more")
    """c₁: how strongly learned relations avoid tasks with a large error under a head."""
    norm_weight: float = option(1.0, "positive")
    """c₂: how strongly learned relations are drawn towards equal ones."""
    distance_weight: float = option(10.0, "0 or more")
    """c₃: how strongly learned relations avoid tasks with distant centroids."""
    class_weights: bool = True
    """Whether each class of a task has the same total weight, whatever its number of images."""


class _Memory(nn.Module):
    """The moving averages and class counts of one task. Every task owns such a module."""

    def __init__(self, classes: int, features: int, tasks: int) -> None:
        super().__init__()
        self.centroids = nn.Buffer(torch.zeros(classes, features))
        self.counts = nn.Buffer(torch.zeros(classes))
        self.errors = nn.Buffer(torch.zeros(tasks))
        self.distances = nn.Buffer(torch.zeros(tasks))


class _Classifier(nn.Module):
    """images (T, B, C, H, W) -> (T heads, T, B, F + K): the F features of each image, and every head's K logits.

    The features are the same for all heads.
    """

    def __init__(self, trunk: nn.Module, features: int, classes: int, tasks: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, owned(Linear(features, classes))
        self.memory = owned(_Memory(classes, features, tasks))

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images)
        logits = self.head(features.flatten(0, 1).unsqueeze(0)).unflatten(1, features.shape[:2])
        return torch.cat([features.expand(len(logits), *features.shape), logits], -1)


class Matching(SupervisedLearner):
    """The classifier of T tasks with the same classes."""

    def __init__(self, config: Config, *, network: Any, spec: ImageSpec, **context: Any) -> None:
        """network: the configuration of the trunk, to which a linear head for each task is added. context: as in
        `OneNetwork`.

        Raises:
            UserError: tasks have different numbers of classes, or label the same images.
        """
        one = len(set(spec.num_classes)) == 1 and not spec.shared_input
        check(one, "benchmark", "one whose tasks have the same classes and images of their own", list(spec.tasks))
        trunk, self.features = build_trunk(network, image_shape=spec.image_shape)
        sizes = (self.features, spec.num_classes[0], spec.num_tasks)
        # Each loss depends on the images of all tasks, as with a shared input.
        made = TaskNetwork(lambda code: _Classifier(trunk(code), *sizes), spec.num_tasks, shared_input=True)
        super().__init__(config, made, **context)
        self._same = torch.eye(spec.num_tasks, device=self.device)

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ImageBatch) -> tuple[Tensor, Metrics]:
        """L_t, (T,). Metrics: each head's accuracy on its own images (T,), α (T, T) and centroids' distances (T, T)."""
        memory = [own_buffers[f"memory/{name}"] for name in ("centroids", "counts", "errors", "distances")]
        centroids, counts, mean_errors, mean_distances = memory
        output = self.network.call(shared, own, own_buffers, batch.images)
        features, logits = output[0, ..., : self.features], output[..., self.features :]
        sums, present = class_sums(features, batch.labels, logits.shape[-1])
        counts = counts + present
        errors = self._errors(logits, batch.labels, counts)
        centroids = moved_centroids(centroids, sums, present, counts, self.config.centroid_rate)
        distances = centroid_distances(centroids, counts > 0)
        if self.network.training:
            averages = (mean_errors.lerp(errors, AVERAGING), mean_distances.lerp(distances, AVERAGING))
            with torch.no_grad():
                for kept, new in zip(memory, (centroids, counts, *averages), strict=True):
                    kept.copy_(new)
        relations, matching = self._relations(mean_errors, mean_distances)
        losses = (relations * errors).sum(1) + self.config.semantic_weight * (matching * distances).sum(1)
        own_logits = logits.detach().diagonal(dim1=0, dim2=1).movedim(-1, 0)
        accuracy = (own_logits.argmax(-1) == batch.labels).float().mean(1)
        return losses, {"accuracy": accuracy, "relation": relations, "distance": distances.detach()}

    def _errors(self, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """R (T heads, T tasks) of logits (T, T, B, K) and labels (T, B); counts (T, K): images of each class so far."""
        rows = F.cross_entropy(logits.flatten(0, 2), labels.expand(len(logits), -1, -1).flatten(), reduction="none")
        rows = rows.view(logits.shape[:3])
        if not self.config.class_weights:
            return rows.mean(-1)
        return (rows * class_weights(counts).gather(1, labels)).mean(-1)

    def _relations(self, errors: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of the errors, and those of the distances, (T, T) each. They differ only for relations=own."""
        equal = torch.full_like(self._same, 1 / len(self._same))
        if self.config.relations == "learned":
            cost = self.config.error_weight * errors + self.config.distance_weight * distances
            equal = relations(cost, self.config.norm_weight)
        return self._same if self.config.relations == "own" else equal, equal

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """images (T, B, C, H, W) -> the likeliest classes (T, B), according to each task's own head."""
        self.network.eval()
        logits = self.network(images.to(self.device))[..., self.features :]
        return logits.diagonal(dim1=0, dim2=1).movedim(-1, 0).argmax(-1)


def class_sums(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """features (T, B, F), labels (T, B) -> each class's sum of features (T, K, F) and number of images (T, K)."""
    members = F.one_hot(labels, classes).to(features)
    return members.mT @ features, members.sum(1)


def moved_centroids(old: Tensor, sums: Tensor, present: Tensor, counts: Tensor, rate: float) -> Tensor:
    """(1 − rate) · old + rate · (mean of the batch), (T, K, F). The first mean of a class replaces the old centroid.

    present (T, K): images of each class in the batch; counts (T, K): images in all batches so far, this one included.
    """
    mean = sums / present.clamp(min=1).unsqueeze(-1)
    share = torch.where(counts == present, 1.0, rate) * (present > 0)
    return old.lerp(mean, share.unsqueeze(-1).to(mean))


def centroid_distances(centroids: Tensor, seen: Tensor) -> Tensor:
    """d (T, T) of centroids (T, K, F): mean squared differences over the classes that both tasks have seen.

    seen (T, K): whether a task has had images of a class.
    """
    squares = (centroids.unsqueeze(1) - centroids.unsqueeze(0)).square().mean(-1)
    both = seen.unsqueeze(1) & seen.unsqueeze(0)
    return (squares * both).sum(-1) / both.sum(-1).clamp(min=1)


def class_weights(counts: Tensor) -> Tensor:
    """n / (m n_c), (T, K), for a task with n images of m classes, n_c of them of class c; 0 for classes without images.

    counts (T, K): images of each class so far.
    """
    classes = (counts > 0).sum(1, keepdim=True)
    return torch.where(counts > 0, counts.sum(1, keepdim=True) / (classes * counts).clamp(min=1), 0.0)


def relations(cost: Tensor, norm_weight: float) -> Tensor:
    """The rows α ≥ 0, Σ α = 1 that minimise cost · α + norm_weight ‖α‖₂, (T, T).

    By the Karush–Kuhn–Tucker conditions, α is proportional to max(ν − cost, 0), with ν such that the norm of
    max(ν − cost, 0) is norm_weight. ν solves a quadratic equation in those costs that lie below it, the k smallest.
    """
    ordered = cost.double().sort(1).values
    ordered = ordered - ordered[:, :1]
    index = torch.arange(1, cost.shape[1] + 1, device=cost.device)
    first, second = ordered.cumsum(1), ordered.square().cumsum(1)
    below = (index * ordered.square() - 2 * ordered * first + second < norm_weight**2).sum(1, keepdim=True)
    below = below.clamp(min=1)  # 0 only if all costs are NaN; so is the result then
    total, squares = first.gather(1, below - 1), second.gather(1, below - 1)
    level = (total + (total.square() - below * (squares - norm_weight**2)).clamp(min=0).sqrt()) / below
    excess = (level - (cost.double() - cost.double().amin(1, keepdim=True))).clamp(min=0)
    return (excess / excess.sum(1, keepdim=True)).to(cost)


def build(config: Config, **context: Any) -> Matching:
    return Matching(config, **context)
