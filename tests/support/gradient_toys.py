"""Small problems on which gradient methods are tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.supervised import Supervised
from mtrl.core.specs import ImageSpec
from mtrl.core.types import Transitions
from mtrl.data.images import ImageBatch
from mtrl.gradients import SURGERIES, WEIGHTINGS, Context, Methods
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.networks import IMAGE_NETWORKS, NETWORKS, TaskNetwork

T, B, INPUT, O, A = 3, 6, 4, 5, 2


def context(losses: Tensor, **more: Any) -> Context:
    """What a weighting sees in the first update."""
    everyone = torch.ones(len(losses), dtype=torch.bool)
    return Context(losses, torch.zeros((), dtype=torch.int64), everyone, more.pop("present", everyone), **more)


def config(registry: Any, kind: str, **options: Any) -> Any:
    """A method's configuration, with a primary task where it cannot do without."""
    made = registry.config_class(kind)
    if getattr(made, "requires_primary", False) and "primary" not in options:
        options["primary"] = ["0"]
    if kind == "soft_modular":
        options["module_width"] = 8
    return made(**options)


def methods(weighting: Any = "equal", surgery: Any = "none", **more: Any) -> Methods:
    """Methods by kinds or configurations; dwa has a short window."""
    if isinstance(weighting, str):
        weighting = config(WEIGHTINGS, weighting, **({"window": 2} if weighting == "dwa" else {}))
    return Methods(weighting, config(SURGERIES, surgery) if isinstance(surgery, str) else surgery, **more)


class Regression:
    """T linear teachers, inputs (T, B, INPUT), mean squared errors (T,)."""

    def __init__(self, network: str = "multi_head", ensemble: int | None = None, tasks: int = T) -> None:
        torch.manual_seed(3)
        factory = NETWORKS.build(config(NETWORKS, network, width=8, depth=2), input_size=INPUT, output_size=1)
        self.network = TaskNetwork(factory, tasks, ensemble).double()
        self.teachers = torch.randn(tasks, INPUT, 1, dtype=torch.float64)

    def batch(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(len(self.teachers), B, INPUT, dtype=torch.float64, generator=generator)
        return inputs, (inputs @ self.teachers).squeeze(-1)

    def losses(self, shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, labels = batch
        losses = (self.network.call(shared, own, own_buffers, inputs).squeeze(-1) - labels).square().mean(-1)
        return losses if self.network.ensemble is None else losses.sum(0), {}

    def optimizer(
        self, weighting: Any, surgery: Any, *, sgd: dict[str, Any] | None = None, diagnostics: Any = (), **more: Any
    ) -> Any:
        """The optimiser of this network by kinds or configurations of the methods."""
        weighting = config(WEIGHTINGS, weighting) if isinstance(weighting, str) else weighting
        step = torch.optim.SGD(self.network.parameters(), **(sgd or {"lr": 0.02}))
        generator = torch.Generator().manual_seed(0)
        chosen = methods(weighting, surgery, diagnostics=diagnostics)
        return chosen.optimizer(self.network, step, **{"generator": generator, "extras": ("log_alpha",), **more})

    def train(self, method: MultiTaskOptimizer, updates: int, first: int = 0, **more: Any) -> list[dict[str, Tensor]]:
        return [
            method.step(self.losses, self.batch(2 * k), self.batch(2 * k + 1), **more)
            for k in range(first, first + updates)
        ]


def transitions(seed: int, tasks: int = T, scale: float = 1.0) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(tasks, B, O, generator=g),
        torch.rand(tasks, B, A, generator=g) * 2 - 1,
        torch.rand(tasks, B, generator=g) * scale,
        torch.randn(tasks, B, O, generator=g),
        torch.randint(2, (tasks, B), generator=g).float(),
    )


IMAGE, CLASSES = (1, 4, 4), (3, 2, 3)
SMALL_IMAGE_NETWORK: dict[str, Any] = {"width": 3, "depth": 1, "fc_width": 5, "fc_depth": 1}


def classifier(
    network: str = "conv",
    weighting: str = "equal",
    surgery: str = "none",
    *,
    shared_input: bool = False,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    diagnostics: Any = (),
    process_group: Any = None,
    **agent: Any,
) -> Supervised:
    """The supervised agent of T small image tasks."""
    torch.manual_seed(seed)
    sizes = {"vgg16": {"scale": 1 / 32}, "resnet18": {"width": 2, "blocks": 1}}.get(network, SMALL_IMAGE_NETWORK)
    return AGENTS.build(
        AGENTS.config_class("supervised")(**{"batch_size": B, "learning_rate": 0.05, **agent}),
        network=IMAGE_NETWORKS.config_class(network)(**{**sizes, **(options or {})}),
        methods=methods(weighting, surgery, diagnostics=diagnostics, process_group=process_group),
        spec=ImageSpec(tuple(map(str, range(T))), IMAGE, CLASSES, shared_input),
        seed=seed,
    )


def image_batch(seed: int, shared_input: bool = False) -> ImageBatch:
    """Images whose brightest column is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(count, (B,), generator=generator) for count in CLASSES])
    images = 0.3 * torch.randn(1 if shared_input else T, B, *IMAGE, generator=generator)
    if not shared_input:
        images[..., 0, 0, :] += 2 * torch.nn.functional.one_hot(labels, IMAGE[-1])
    return ImageBatch(images, labels)
