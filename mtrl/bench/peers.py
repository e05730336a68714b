"""What our update is compared with: PCGrad as in public code and in `torchjd`, and the matrix products alone."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtrl.bench.plain_sac import Backward


def naive_pcgrad(losses: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
    """A `Backward`: T backward passes, then projections of whole gradient vectors, one pair at a time."""
    vectors, owned = [], []
    for loss in losses:
        found = torch.autograd.grad(loss, [*shared, *own], retain_graph=True)
        vectors.append(torch.cat([g.flatten() for g in found[: len(shared)]]))
        owned.append(found[len(shared) :])
    projected = [v.clone() for v in vectors]
    for vector in projected:
        for other in random.sample(vectors, len(vectors)):
            product = torch.dot(vector, other)
            if product < 0:
                vector -= product / other.square().sum() * other
    update = torch.stack(projected).mean(0)
    sizes = [p.numel() for p in shared]
    for parameter, gradient in zip(shared, update.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    for parameter, gradients in zip(own, zip(*owned, strict=True), strict=True):
        parameter.grad = torch.stack(gradients).mean(0)


def torchjd_pcgrad() -> Backward | None:
    """torchjd's `Backward`: a batched pass for the shared parameters, and one of the mean loss for the owned ones.

    Returns None if torchjd is not installed.
    """
    if importlib.util.find_spec("torchjd") is None:
        return None
    aggregation, autojac = (importlib.import_module(f"torchjd.{name}") for name in ("aggregation", "autojac"))
    aggregator = aggregation.PCGrad()

    def backward(losses: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        mean = losses / len(losses)
        autojac.backward(mean, inputs=shared, retain_graph=True)
        autojac.jac_to_grad(shared, aggregator)
        torch.autograd.backward(mean.sum(), inputs=list(own))

    return backward


def matrix_products(
    num_tasks: int, observation: int, action: int, width: int, depth: int, batch: int
) -> Callable[[], Any]:
    """A function that computes only the matrix products of a joint update with twin critics, in preallocated memory."""
    rows = num_tasks * batch
    actor = _Products(1, rows, [observation, *[width] * depth, 2 * action])
    critics = _Products(2, rows, [observation + action, *[width] * depth, 1])

    def call() -> None:
        actor.forward()  # the target's actions
        critics.forward()  # the targets
        critics.forward()
        critics.weight_gradients()
        critics.input_gradients(first=1)
        actor.forward()
        critics.forward()
        critics.input_gradients(first=0)
        actor.weight_gradients()
        actor.input_gradients(first=1)

    return call


class _Products:
    """The matrix products of `ensemble` networks whose layers have these sizes, input first, for `rows` rows.

    One output layer for the rows of all tasks stands for the tasks' own output layers.
    """

    def __init__(self, ensemble: int, rows: int, sizes: list[int]) -> None:
        self._values = [torch.randn(ensemble, rows, size) for size in sizes]
        self._gradients = [torch.randn(ensemble, rows, size) for size in sizes]
        self._weights = [torch.randn(ensemble, i, o) for i, o in pairwise(sizes)]
        self._products = [torch.empty_like(weight) for weight in self._weights]

    def forward(self) -> None:
        for layer, weight in enumerate(self._weights):
            torch.bmm(self._values[layer], weight, out=self._values[layer + 1])

    def weight_gradients(self) -> None:
        for layer, product in enumerate(self._products):
            torch.bmm(self._values[layer].mT, self._gradients[layer + 1], out=product)

    def input_gradients(self, first: int) -> None:
        """first: the first layer whose input's gradient is computed; 0 includes that of the network's input."""
        for layer in reversed(range(first, len(self._weights))):
            torch.bmm(self._gradients[layer + 1], self._weights[layer].mT, out=self._gradients[layer])
