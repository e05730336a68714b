"""mtrl bench shared_input: four ways to compute the gradients of forty tasks on the same images, and their costs.

- joint: one backward pass of the summed losses, for comparison.
- passes: one backward pass for each task's gradient with respect to the shared trunk. This is what surgery uses.
- batched: the same gradients from one call with `is_grads_batched`, which holds the intermediate results of all forty
  backward passes in memory at once.
- features: each task's gradient with respect to the trunk's output, and one backward pass of a combination of these
  through the trunk (MGDA-UB, Sener & Koltun 2018). No task's gradient with respect to the trunk is computed, so
  MGDA minimises only an upper bound of its objective.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.bench.report import machine
from mtrl.core.cores import torch_threads
from mtrl.gradients.algebra import gramian
from mtrl.networks import IMAGE_NETWORKS

TASKS, BATCH, SIZE, WIDTH = 40, 16, 32, 16
"""CelebA's tasks on small images with a narrow ResNet-18, so that a round takes seconds."""


def measure(quick: bool = False) -> dict[str, Any]:
    """Median milliseconds of CPU time of each way on one thread, measured alternately, and their ratios to `joint`."""
    with torch_threads(1):
        used, calls = machine(), ways()
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(1 + (1 if quick else 5)):
            for name, call in calls.items():
                begin = time.process_time()
                call()
                seconds[name].append(time.process_time() - begin)
    times = {name: median(values[1:]) for name, values in seconds.items()}
    rows = [{"update": name, "ms": 1e3 * value, "ratio": value / times["joint"]} for name, value in times.items()]
    facts = {"tasks": TASKS, "batch": BATCH, "size": SIZE, "network": "resnet18", "width": WIDTH}
    return {"bench": "shared_input", **facts, "machine": used, "rows": rows}


def ways() -> dict[str, Callable[[], Any]]:
    """name -> a function that computes the gradients of a trunk with forty linear heads, including the forward pass."""
    torch.manual_seed(0)
    config = IMAGE_NETWORKS.config_class("resnet18")(width=WIDTH)
    shape = (3, SIZE, SIZE)
    trunk = IMAGE_NETWORKS.build(config, image_shape=shape, output_size=None)(torch.zeros(1))
    size = IMAGE_NETWORKS.module("resnet18").trunk_size(config, shape)
    heads = torch.randn(TASKS, size, 2).mul(size**-0.5).requires_grad_()
    images, labels = torch.randn(BATCH, *shape), torch.randint(2, (TASKS, BATCH))
    shared = list(trunk.parameters())

    def losses(features: Tensor) -> Tensor:
        logits = features.expand(TASKS, BATCH, size) @ heads
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(TASKS, BATCH).mean(1)

    def joint() -> list[Tensor]:
        return list(torch.autograd.grad(losses(trunk(images)).sum(), shared))

    def passes() -> list[Tensor]:
        found = losses(trunk(images))
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in found]
        return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]

    def batched() -> list[Tensor]:
        found = losses(trunk(images))
        return list(torch.autograd.grad(found, shared, torch.eye(TASKS), is_grads_batched=True))

    def features() -> list[Tensor]:
        last = trunk(images)
        leaf = last.detach().expand(TASKS, BATCH, size).requires_grad_()
        each = torch.autograd.grad(losses(leaf).sum(), leaf)[0]
        weights = gramian([each.flatten(1)]).diagonal().rsqrt().to(each)  # in place of a method's coefficients
        return list(torch.autograd.grad(last, shared, torch.einsum("t,tbf->bf", weights, each)))

    return {"joint": joint, "passes": passes, "batched": batched, "features": features}
