"""Small pictures with targets for each pixel, and learners of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mtrl.agents import AGENTS
from mtrl.agents.dense import Dense
from mtrl.core.specs import DenseSpec
from mtrl.data.dense import DenseBatch
from mtrl.networks import DENSE_NETWORKS
from tests.support.gradient_toys import methods

CLASSES, SIZE, B = 3, 16, 4
KINDS = ("segmentation", "depth", "normals", "noise")
SPEC = DenseSpec(KINDS, (3, SIZE, SIZE), KINDS, (CLASSES, 1, 3, 1), uncounted=("noise",))
SMALL: dict[str, Any] = {
    "depth": "18", "scale": 1 / 16, "stem_stride": "1", "head_width": 6, "rates": [1, 2], "dropout": 0.0,
}  # fmt: skip


def learner(
    network: str = "split",
    weighting: Any = "equal",
    surgery: Any = "none",
    *,
    seed: int = 0,
    spec: DenseSpec = SPEC,
    options: dict[str, Any] | None = None,
    **agent: Any,
) -> Dense:
    torch.manual_seed(seed)
    return AGENTS.build(
        AGENTS.config_class("dense")(**{"batch_size": B, "learning_rate": 0.05, **agent}),
        network=DENSE_NETWORKS.config_class(network)(**{**SMALL, **(options or {})}),
        methods=methods(weighting, surgery),
        spec=spec,
        seed=seed,
    )


def batch(seed: int) -> DenseBatch:
    """Rectangles of three colours; the colour tells the class, the depth and the normal. A corner is unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(B, SIZE, SIZE, dtype=torch.long)
    for row in labels:
        for label in (1, 2):
            top, left = torch.randint(SIZE - 6, (2,), generator=generator).tolist()
            row[top : top + 6, left : left + 6] = label
    images = F.one_hot(labels, CLASSES).movedim(-1, 1).float() * 2 - 1
    target = labels.float().unsqueeze(1)
    depth, normals = 1 + target, torch.eye(3)[labels].movedim(-1, 1).clone()
    target[:, :, :2, :2], depth[:, :, :2, :2], normals[:, :, :2, :2] = -1, 0, 0
    noise = torch.rand(B, 1, SIZE, SIZE, generator=generator)
    return DenseBatch(images.unsqueeze(0), (target, depth, normals, noise))
