"""Semantic matching against direct computations: centroids, distances, class weights, relations and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.matching import class_weights, relations
from mtrl.core.errors import UserError
from mtrl.core.specs import ImageSpec
from mtrl.data.images import ImageBatch
from mtrl.gradients import DIAGNOSTICS
from mtrl.networks import IMAGE_NETWORKS
from tests.support.gradient_toys import IMAGE, SMALL_IMAGE_NETWORK, methods

T, B, K = 3, 6, 4
RATE = 0.3


def matching(weighting: str = "equal", *, classes: tuple[int, ...] = (K,) * T, diagnostics: Any = (), **options: Any):
    torch.manual_seed(0)
    return AGENTS.build(
        AGENTS.config_class("matching")(**{"batch_size": B, "learning_rate": 0.05, "centroid_rate": RATE, **options}),
        network=IMAGE_NETWORKS.config_class("conv")(**SMALL_IMAGE_NETWORK),
        methods=methods(weighting, diagnostics=diagnostics),
        spec=ImageSpec(tuple(map(str, range(T))), IMAGE, classes),
        seed=0,
    )


def batch(seed: int) -> ImageBatch:
    """Task t has no image of class t, and some classes are absent from some batches."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.randint(1, K, (T, B), generator=generator) + torch.arange(T).unsqueeze(1)) % K
    return ImageBatch(torch.randn(T, B, *IMAGE, generator=generator), labels)


def outputs(agent: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (T, B, F) and logits (T heads, T tasks, B, K) of the next training step."""
    shared, own, buffers = agent.network.tensors
    agent.network.train()
    output = agent.network.call(shared, own, {n: b.clone() for n, b in buffers.items()}, images).detach()
    return output[0, ..., : agent.features], output[..., agent.features :]


def memory(agent: Any, name: str) -> Tensor:
    return agent.network.own_buffers[f"memory/{name}"].clone()


def test_centroids_are_moving_averages_of_class_means() -> None:
    agent = matching()
    centroids: list[dict[int, np.ndarray]] = [{} for _ in range(T)]
    counts = np.zeros((T, K))
    for seed in range(5):
        given = batch(seed)
        features, _ = outputs(agent, given.images)
        for task in range(T):
            for label in set(given.labels[task].tolist()):
                rows = [features[task, b].double().numpy() for b in range(B) if given.labels[task, b] == label]
                mean, old = np.mean(rows, axis=0), centroids[task].get(label)
                centroids[task][label] = mean if old is None else (1 - RATE) * old + RATE * mean
                counts[task, label] += len(rows)
        agent.update(given)
    np.testing.assert_array_equal(memory(agent, "counts").numpy(), counts)
    assert all(counts[task, task] == 0 and task not in centroids[task] for task in range(T))
    for task, found in enumerate(centroids):
        for label, centroid in found.items():
            np.testing.assert_allclose(memory(agent, "centroids")[task, label].numpy(), centroid, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "equal", "own"])
def test_losses_are_those_of_the_equation(kind: str) -> None:
    agent = matching(relations=kind, semantic_weight=2.0, error_weight=0.5, distance_weight=0.25)
    for seed in range(3):
        agent.update(batch(seed))
    given = batch(3)
    _, logits = outputs(agent, given.images)
    shared, own, buffers = agent.network.tensors
    losses, aux = agent.losses(shared, own, buffers, given)
    centroids, counts = memory(agent, "centroids"), memory(agent, "counts")  # with this batch
    cost = agent.config.error_weight * memory(agent, "errors") + agent.config.distance_weight * memory(
        agent, "distances"
    )
    alpha = relations(cost, agent.config.norm_weight) if kind == "learned" else torch.full((T, T), 1 / T)
    for t in range(T):
        expected = torch.zeros(())
        for i in range(T):
            seen = counts[i] > 0
            weight = torch.where(seen, counts[i].sum() / (seen.sum() * counts[i]), 0.0)
            weights = weight[given.labels[i]]
            errors = F.cross_entropy(logits[t, i], given.labels[i], reduction="none")
            share = float(i == t) if kind == "own" else alpha[t, i]
            expected = expected + share * (weights * errors).mean()
            both = [c for c in range(K) if counts[t, c] > 0 and counts[i, c] > 0]
            gaps = [(centroids[t, c] - centroids[i, c]).square().mean() for c in both]
            expected = expected + 2.0 * alpha[t, i] * torch.stack(gaps).mean()
        torch.testing.assert_close(losses[t].detach(), expected, rtol=1e-4, atol=1e-6)
    own_logits = torch.stack([logits[t, t] for t in range(T)])
    assert torch.equal(aux["accuracy"], (own_logits.argmax(-1) == given.labels).float().mean(1))


def test_matching_brings_centroids_together() -> None:
    """From the same start, on the same batches, the classes of tasks end closer to each other."""
    distance = {}
    for weight in (0.0, 30.0):
        agent = matching(semantic_weight=weight)
        found = [agent.update(batch(seed))["distance"].sum() for seed in range(60)]
        distance[weight] = float(torch.stack(found[-10:]).mean())
    assert distance[30.0] < 0.5 * distance[0.0]


def test_every_class_of_a_task_has_the_same_total_weight() -> None:
    counts = torch.tensor([[8.0, 1.0, 0.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    totals = counts * class_weights(counts)
    torch.testing.assert_close(totals, torch.tensor([[4.0, 4.0, 0.0, 4.0], [5.0, 5.0, 5.0, 5.0]]))


@pytest.mark.parametrize("norm_weight", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_relations_are_the_minimum_over_the_simplex(norm_weight: float, scale: float) -> None:
    """Compared with a general solver: the objective is no worse, and the weights are the same."""
    cost = scale * torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cost[0] = cost[0, 0]
    found = relations(cost, norm_weight).numpy()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    for row, alpha in zip(cost.numpy(), found, strict=True):

        def objective(a: np.ndarray, row: np.ndarray = row) -> float:
            return float(a @ row + norm_weight * np.linalg.norm(a)) / max(scale, norm_weight)

        one = {"type": "eq", "fun": lambda a: a.sum() - 1}
        best = minimize(objective, np.full(5, 0.2), bounds=[(0, 1)] * 5, constraints=[one], tol=1e-12)
        assert objective(alpha) <= best.fun + 1e-7
        np.testing.assert_allclose(alpha, best.x, atol=3e-3)


def test_distances_that_are_no_numbers_show_in_their_own_relations_only() -> None:
    cost = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    wanted = relations(cost, 0.5)[0]
    cost[1] = torch.nan
    found = relations(cost, 0.5)
    assert found[1].isnan().all() and torch.equal(found[0], wanted)


def test_a_look_ahead_leaves_no_trace_in_the_memory() -> None:
    plain, agent = matching(), matching("auto_lambda")
    for made in (plain, agent):
        made.update(batch(0), batch(1))
    for name in ("centroids", "counts", "errors", "distances"):
        torch.testing.assert_close(memory(agent, name), memory(plain, name))


def test_a_step_of_no_length_changes_no_loss() -> None:
    """The losses after a step are those of the same function as before: the memory does not count the batch twice."""
    agent = matching(diagnostics=[DIAGNOSTICS.config_class("transference")(every=1)], momentum=0.0, weight_decay=0.0)
    for seed in range(4):
        agent.update(batch(seed))
    (transference,) = agent.optimizer.diagnostics
    before = transference.total.clone()
    agent.set_rate(1e-12)
    agent.update(batch(5))
    torch.testing.assert_close(transference.total, before, rtol=0, atol=1e-6)


def test_separate_gradients_make_the_same_step() -> None:
    """A diagnostic that needs each loss's own gradient of the shared parameters changes no update."""
    plain, watched = matching(), matching(diagnostics=[DIAGNOSTICS.config_class("triad")()])
    for made in (plain, watched):
        made.update(batch(0))
        made.update(batch(1))
    for ours, theirs in zip(plain.network.parameters(), watched.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_each_task_is_classified_by_its_own_head() -> None:
    agent = matching()
    agent.update(batch(0))
    images = batch(1).images
    agent.network.eval()
    logits = agent.network(images)[..., agent.features :]
    for task in range(T):
        assert torch.equal(agent.predict(images)[task], logits[task, task].argmax(-1))


def test_tasks_of_different_classes_are_refused() -> None:
    with pytest.raises(UserError, match="same classes"):
        matching(classes=(K, K, K - 1))
