"""RL-AUX's environment: an observation is one training image, and an action is its label (RL-AUX, Sec. 3, 4).

After B_T labels, the main network takes a step on the batch. The reward is zero until then. After the step it is
−L_primary on B_R random training images ± c·H(p̄), where H is the entropy of the mean label probabilities on those
images. As printed, Eq. 3 and 4 add Σ p̄ log p̄ = −H, which rewards collapsed labels, although the text wants to prevent
them. So the default is +c·H, and `entropy_sign="paper"` is the printed form. An episode is one epoch of the training
images.

There are two modes. In mode `agent`, the main network returns to its canonical weights at the end of an episode, or of
each batch with `reset_every=batch`. In mode `main`, no reward is calculated, and the weights at the end of an episode
become the canonical ones.

Our choices where the paper is silent: the last batch of an epoch holds what remains; the reward's loss is computed with
the network in evaluation mode; the images of the reward are drawn with replacement and not augmented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.agents.auxiliary.labels import WEIGHT_CLASSES, batch_entropy, hierarchy_mask, weight_of_class
from mtrl.agents.auxiliary.learner import Sizes
from mtrl.agents.auxiliary.options import Config
from mtrl.core.config import check_choice
from mtrl.core.types import Learner
from mtrl.data.images import ImageData, crop_and_flip, normalised

Observation = dict[str, Any]
LabelProbabilities = Callable[[Tensor, Tensor], Tensor]
"""Maps images (B, C, H, W) and their primary labels (B,) to probabilities of the K auxiliary labels (B, K)."""


class AuxiliaryEnv(gymnasium.Env[Observation, Any]):
    """Observation: the image (C, H, W) and its primary label. Action: an auxiliary label in [0, K), and with
    `weight_aware` also a weight class. `step_batch` takes the labels of a whole training batch at once."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        learner: Learner,
        data: ImageData,
        sizes: Sizes,
        label_probabilities: LabelProbabilities,
        options: Config,
    ) -> None:
        """data: the images of one task, on the learner's device."""
        self.learner, self.data, self.sizes = learner, data, sizes
        self.label_probabilities, self.options = label_probabilities, options
        self.mode = "agent"
        self.canonical: Any = None
        self.rewards: list[float] = []
        self.last_rewards: list[float] = []
        self._images, self._labels = data.train.pool[data.train.rows[0]], data.train.labels[0]
        self._order = np.arange(len(self._labels))
        self._generator = torch.Generator(self._images.device)
        shape = self._images.shape[1:]
        low, high = (normalised(torch.full(shape, v), data.mean.cpu(), data.deviation.cpu()) for v in (0, 255))
        image = gymnasium.spaces.Box(low.numpy(), high.numpy(), dtype=np.float32)
        label = gymnasium.spaces.Discrete(sizes.num_classes)
        self.observation_space = gymnasium.spaces.Dict({"image": image, "label": label})
        choices = [sizes.auxiliary, WEIGHT_CLASSES]
        aware = self.options.weight_aware
        self.action_space = (
            gymnasium.spaces.MultiDiscrete(choices) if aware else gymnasium.spaces.Discrete(sizes.auxiliary)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an epoch in a new order from the canonical main network.

        options: {"mode": "agent" or "main"}; the mode does not change if not given.

        Raises:
            UserError: there is no such mode.
        """
        super().reset(seed=seed)
        self.mode = (options or {}).get("mode", self.mode)
        check_choice("mode", self.mode, ("agent", "main"))
        if self.canonical is None:
            self.set_canonical()
        self.learner.restore(self.canonical)
        self._order = self.np_random.permutation(len(self._labels))
        self._begin, self.rewards = 0, []
        self._open()
        return self._observation(), {}

    def set_canonical(self) -> None:
        """Make the main network's current state the canonical one, to which mode `agent` returns."""
        self.canonical = self.learner.snapshot()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Label the current image. After the last label of a batch, the main network takes a step on the batch."""
        self._actions[self._place] = action
        self._place += 1
        reward, terminated = 0.0, False
        if self._place == len(self._actions):
            reward, terminated = self._train()
        return self._observation(), reward, terminated, False, {}

    def step_batch(self, actions: NDArray[Any]) -> tuple[float, bool]:
        """Label the current batch at once, with actions (B,), or (B, 2) with `weight_aware`.

        Returns the reward of its last step, and whether the epoch is over.
        """
        self._actions[:] = actions
        self._place = len(self._actions)
        return self._train()

    def action_masks(self) -> NDArray[np.bool_]:
        """(K,) bool: which labels the hierarchy allows for the current image."""
        label = self.batch[1][self._shown].reshape(1).cpu()
        return hierarchy_mask(label, self.sizes.num_classes, self.sizes.subclasses)[0].numpy()

    def _open(self) -> None:
        """Prepare the next training batch, cropped and flipped, for labelling."""
        rows = self._order[self._begin : self._begin + self.options.batch_size]
        where = torch.from_numpy(rows).to(self._images.device)
        images = normalised(self._images[where], self.data.mean, self.data.deviation)
        if self.data.padding or self.data.flip:
            self._generator.manual_seed(int(self.np_random.integers(1 << 62)))
            images = crop_and_flip(images, self._generator, padding=self.data.padding, flip=self.data.flip)
        self.batch = images, self._labels[where]
        """The images (B, C, H, W) and primary labels (B,) of the training batch that is being labelled."""
        self._host = images.cpu().numpy(), self.batch[1].cpu().numpy()
        columns = (2,) if self.options.weight_aware else ()
        self._actions: NDArray[np.int64] = np.zeros((len(rows), *columns), np.int64)
        self._place = 0

    @property
    def _shown(self) -> int:
        """The index in the batch of the image to observe. At the end of an episode, it stays at the last image."""
        return min(self._place, len(self._actions) - 1)

    def _observation(self) -> Observation:
        return {"image": self._host[0][self._shown], "label": self._host[1][self._shown]}

    def _train(self) -> tuple[float, bool]:
        """Train the main network on the labelled batch. Returns the reward, and whether that was the last batch."""
        images, labels = self.batch
        actions = torch.from_numpy(self._actions).to(images.device)
        auxiliary, weight = (actions[:, 0], weight_of_class(actions[:, 1])) if actions.ndim == 2 else (actions, None)
        self.learner.train_batch(images, labels, auxiliary, weight)
        reward = self._reward() if self.mode == "agent" else 0.0
        self.rewards.append(reward)
        self._begin += len(self._actions)
        over = self._begin >= len(self._order)
        if self.mode == "agent" and (over or self.options.reset_every == "batch"):
            self.learner.restore(self.canonical)
        elif over:
            self.set_canonical()
        if over:
            self.last_rewards = self.rewards
        else:
            self._open()
        return reward, over

    def _reward(self) -> float:
        """Eq. 4 on B_R random training images, with the sign that `entropy_sign` names."""
        rows = torch.from_numpy(self.np_random.integers(len(self._labels), size=self.options.reward_size))
        rows = rows.to(self._images.device)
        images, labels = normalised(self._images[rows], self.data.mean, self.data.deviation), self._labels[rows]
        entropy = batch_entropy(self.label_probabilities(images, labels))
        sign = 1 if self.options.entropy_sign == "spread" else -1
        reward = -self.learner.evaluate(images, labels) + sign * self.options.entropy_weight * entropy
        return float(reward)
