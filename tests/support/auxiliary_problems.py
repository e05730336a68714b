"""Small auxiliary-learning problems."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtrl.agents import AGENTS
from mtrl.agents.auxiliary import Auxiliary
from mtrl.agents.auxiliary.environment import AuxiliaryEnv
from mtrl.agents.auxiliary.learner import MainLearner, Objective, Sizes, TwoHeads
from mtrl.agents.auxiliary.options import Config
from mtrl.core.specs import ImageSpec
from mtrl.data.images import ImageData, channel_statistics, task_images
from mtrl.gradients import Methods
from mtrl.networks import IMAGE_NETWORKS

SIZES = Sizes(num_classes=2, subclasses=3)
SHAPE = (1, 4, 4)


def data(count: int = 10, *, flip: bool = False, human: bool = True) -> ImageData:
    """Images that are brighter on the right where the label is 1."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randint(100, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(SIZES.num_classes, (count,), generator=generator)
    pool[labels == 1, :, :, 2:] += 100
    people = [SIZES.subclasses * labels + torch.randint(SIZES.subclasses, (count,), generator=generator)]
    tasks = task_images(pool, [torch.arange(count)], [labels], people if human else None)
    return ImageData(tasks, tasks, *channel_statistics(pool), 1 if flip else 0, flip)


def trunk_config() -> Any:
    return IMAGE_NETWORKS.config_class("conv")(width=3, depth=1, fc_width=5, fc_depth=1)


def make_trunk() -> nn.Module:
    return IMAGE_NETWORKS.build(trunk_config(), image_shape=SHAPE, output_size=None)(torch.zeros(1))


def learner(*, seed: int = 0, momentum: float = 0.9, **objective: Any) -> MainLearner:
    torch.manual_seed(seed)
    network = TwoHeads(make_trunk(), 5, 4, SIZES)
    settings = {"auxiliary_weight": 1.0, "focusing": 2.0, "mask_head": False, **objective}
    return MainLearner(network, Objective(SIZES, **settings), rate=0.1, momentum=momentum, decay=1e-3)


def uneven_probabilities(images: Tensor, labels: Tensor) -> Tensor:
    """Label probabilities that depend only on the label: 1/2, 1/4, 1/4 within it."""
    table = torch.tensor([[0.5, 0.25, 0.25, 0, 0, 0], [0, 0, 0, 0.5, 0.25, 0.25]], dtype=images.dtype)
    return table[labels]


def environment(count: int = 10, *, flip: bool = False, seed: int = 0, **options: Any) -> AuxiliaryEnv:
    settings = Config(**{"batch_size": 4, "reward_size": 5, **options})
    return AuxiliaryEnv(learner(seed=seed), data(count, flip=flip), SIZES, uneven_probabilities, settings)


def agent(seed: int = 0, **options: Any) -> Auxiliary:
    torch.manual_seed(seed)
    settings = {"batch_size": 4, "reward_size": 5, "hierarchy": SIZES.subclasses, "head_width": 4, **options}
    return AGENTS.build(
        AGENTS.config_class("auxiliary")(**settings),
        network=trunk_config(),
        methods=Methods(),
        spec=ImageSpec(("primary",), SHAPE, (SIZES.num_classes,)),
        seed=seed,
    )


def tensors(module: nn.Module) -> list[Tensor]:
    return [t.clone() for t in module.state_dict().values()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))
