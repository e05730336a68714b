"""mtrl bench auxiliary: the time in which RL-AUX labels images, one per step (stable-baselines3) or in batches."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.bench.report import interleaved, machine
from mtrl.core.specs import ImageSpec
from mtrl.core.types import Learner, Metrics
from mtrl.data.images import ImageData, task_images
from mtrl.gradients import Methods
from mtrl.networks import IMAGE_NETWORKS

CLASSES, BATCH = 10, 100
NETWORKS: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "small": ("conv", (1, 8, 8), {"width": 16, "depth": 2, "fc_width": 64, "fc_depth": 1}),
    "conv": ("conv", (3, 32, 32), {"width": 32, "depth": 3, "fc_width": 128, "fc_depth": 1}),
}
"""Architecture, image shape and options: `small` for the images of `benchmark=digits`, `conv` for CIFAR's."""


class Idle:
    """A learner that does nothing, so that only the labelling takes time."""

    def train_batch(self, images: Tensor, labels: Tensor, auxiliary: Tensor | None, weight: Tensor | None) -> Metrics:
        return {}

    def evaluate(self, images: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros(())

    def snapshot(self) -> None:
        """Nothing to copy."""

    def restore(self, snapshot: Any) -> None:
        """Nothing to restore."""


def images(shape: tuple[int, int, int], count: int) -> ImageData:
    """`count` random images of one task with random labels."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    tasks = task_images(pool, [torch.arange(count)], [torch.randint(CLASSES, (count,), generator=generator)])
    mean, deviation = torch.full((shape[0], 1, 1), 0.5), torch.full((shape[0], 1, 1), 0.29)
    return ImageData(tasks, tasks, mean, deviation, 0, False)


def _rollout(name: str, engine: str, count: int, learner: Learner | None) -> Callable[[], Any]:
    """A function that collects labels for `count` images. learner: replaces the agent's main network if given."""
    kind, shape, options = NETWORKS[name]
    torch.manual_seed(0)
    ppo = AGENTS.config_class("auxiliary")().ppo
    ppo.rollout_size = count
    agent = AGENTS.build(
        AGENTS.config_class("auxiliary")(engine=engine, batch_size=BATCH, ppo=ppo),
        network=IMAGE_NETWORKS.config_class(kind)(**options),
        methods=Methods(),
        spec=ImageSpec(("class",), shape, (CLASSES,)),
    )
    agent.prepare(images(shape, count))
    env, model = agent.labels.env, agent.labels.model
    if learner is not None:
        env.learner = learner
    _, callback = model._setup_learn(count, None)

    def collect() -> None:
        model.env.set_options({"mode": "main" if learner is not None else "agent"})
        model._last_obs = model.env.reset()
        model.collect_rollouts(model.env, callback, model.rollout_buffer, count)

    return collect


def measure(quick: bool = False) -> dict[str, Any]:
    """Microseconds per image in an epoch of label collection, step by step and batched, and their ratio.

    `labels` is the labelling alone: mode `main`, which has no rewards, with a main network that does nothing. `epoch`
    also includes the main network's steps and the rewards, which take the same time either way.
    """
    count, repetitions = (200, 2) if quick else (1000, 7)
    rows = []
    for name in NETWORKS:
        for part, learner in (("labels", Idle()), ("epoch", None)):
            calls = {engine: _rollout(name, engine, count, learner) for engine in ("steps", "batched")}
            seconds = interleaved(calls, repetitions, warmup=1)
            base = median(seconds["steps"])
            for engine, values in seconds.items():
                row = {"network": name, "part": part, "path": engine, "us_per_image": 1e6 * median(values) / count}
                rows.append(row | {"speedup": base / median(values), "repetitions": repetitions})
    return {"bench": "auxiliary", "images": count, "batch": BATCH, "machine": machine(), "rows": rows}
