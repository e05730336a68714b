"""Auxiliary learning: a primary task with auxiliary labels from RL-AUX, MAXL or people, or without any.

Epochs of label training alternate with epochs of training the main network, which is a trunk with two heads (Goldfeder,
So & Lipson, "Generating Auxiliary Tasks with Reinforcement Learning", RL-AUX).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.agents.auxiliary.labels import Labels
from mtrl.agents.auxiliary.learner import MainLearner, Objective, Sizes, TwoHeads
from mtrl.agents.auxiliary.maxl import MAXLLabels
from mtrl.agents.auxiliary.options import Config
from mtrl.agents.base import Agent, continue_generator
from mtrl.core.config import check
from mtrl.core.errors import expected, missing
from mtrl.core.specs import ImageSpec
from mtrl.core.types import Metrics
from mtrl.data.images import ImageBatch, ImageData
from mtrl.gradients import Methods
from mtrl.networks.trial import build_trunk


class GivenLabels(Labels):
    """Labels that need no learning: human labels, or none."""

    def __init__(self, human: bool, sizes: Sizes) -> None:
        self._human, self._sizes = human, sizes

    def prepare(self, data: ImageData) -> None:
        if not self._human:
            return
        found = data.train.human
        if found is None:
            what = "rl, maxl or none with a benchmark that has no human labels"
            raise expected("Option `agent.method`", what, "human")
        known = data.train.labels >= 0  # others are padding
        if (found.div(self._sizes.subclasses, rounding_mode="floor") != data.train.labels)[known].any():
            what = "the number of human labels per primary class"
            raise expected("Option `agent.hierarchy`", what, self._sizes.subclasses)

    def assign(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        return (None if batch.human is None or not self._human else batch.human[0]), None


class Auxiliary(Agent):
    """A main network and the source of its auxiliary labels."""

    def __init__(
        self,
        config: Config,
        *,
        network: Any,
        methods: Methods,
        spec: ImageSpec,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """network: the configuration of the trunks' architecture.

        methods: the defaults, since one primary task leaves nothing to weight or to project.

        Raises:
            UserError: the benchmark has several tasks, a gradient method is chosen, or a package is missing.
        """
        one = "one with a single primary task for agent=auxiliary"
        check(spec.num_tasks == 1, "benchmark", one, f"{spec.num_tasks} tasks")
        methods.refuse("agent=auxiliary")
        self.config, self.device = config, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        sizes = Sizes(spec.num_classes[0], config.hierarchy)
        factory, size = build_trunk(network, image_shape=spec.image_shape)

        def make_trunk() -> nn.Module:
            return factory(torch.zeros(1))

        main = TwoHeads(make_trunk(), size, config.head_width, sizes).to(self.device)
        focusing = config.primary_focusing
        focusing = 2.0 * (config.method == "maxl") if focusing is None else focusing
        objective = Objective(sizes, config.auxiliary_weight, config.focusing, config.mask_head, focusing)
        self.learner = MainLearner(
            main, objective, rate=config.learning_rate, momentum=config.momentum, decay=config.weight_decay
        )
        self.labels = self._labels(sizes, make_trunk, size, seed)

    def _labels(self, sizes: Sizes, make_trunk: Callable[[], nn.Module], trunk_size: int, seed: int) -> Labels:
        config = self.config
        if config.method == "maxl":
            return MAXLLabels(config, self.learner, sizes, make_trunk, trunk_size, device=self.device, seed=seed)
        if config.method != "rl":
            return GivenLabels(config.method == "human", sizes)
        try:
            from mtrl.agents.auxiliary.rl import RLLabels
        except ModuleNotFoundError as error:
            raise missing("RL-AUX (agent.method=rl)", "stable-baselines3", "aux") from error
        return RLLabels(config, self.learner, sizes, make_trunk, trunk_size, device=self.device, seed=seed)

    def set_rate(self, factor: float) -> None:
        """Use `factor` times the main network's learning rate from now on."""
        self.learner.set_rate(factor)

    def prepare(self, data: ImageData) -> None:
        """Prepare the source of labels for the data.

        Raises:
            UserError: with `method` human, the data have no human labels, or not `hierarchy` of them per primary class.
        """
        self.labels.prepare(data)

    def train_labels(self, data: ImageData, number: int, progress: Callable[[int, int], None] | None = None) -> Metrics:
        """Train the source of labels in epoch `number`. The main network is the same afterwards.

        progress: called with (done, total), in images or batches.
        """
        return self.labels.epoch(data, number, progress)

    def update(self, batch: ImageBatch, second_batch: ImageBatch | None = None) -> Metrics:
        """Label a batch deterministically and take one step of the main network on it. `second_batch` is not used."""
        auxiliary, weight = self.labels.assign(batch)
        metrics = self.learner.train_batch(batch.images[0], batch.labels[0], auxiliary, weight)
        return metrics | {"accuracy": metrics["accuracy"].unsqueeze(0)}

    def predict(self, images: Tensor) -> Tensor:
        """images (1, B, C, H, W) -> the likeliest primary classes (1, B)."""
        return self.learner.predict(images[0].to(self.device)).unsqueeze(0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs."""
        state = self.learner.snapshot() | {"labels": copy.deepcopy(self.labels.state_dict())}
        return state | {"label_seed": self.labels.seed, "generator": self.generator.get_state()}

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self.labels.seed = seed

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.restore(state)
        self.labels.load_state_dict(state["labels"])
        self.labels.seed = state.get("label_seed", self.labels.seed)  # early checkpoints do not tell
        continue_generator(self.generator, state["generator"].cpu())


def build(config: Config, **context: Any) -> Auxiliary:
    return Auxiliary(config, **context)
