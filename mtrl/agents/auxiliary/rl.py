"""RL-AUX's label agent: stable-baselines3's PPO with a policy of its own (RL-AUX, Sec. 3 and App. C.2).

The policy has a trunk like the main network's, and a layer from it to `agent.ppo.features` features. One linear layer
gives the logits of the K labels, and in the weight-aware variant 21 more for the weight. Labels that do not belong to
the image's primary label are masked. Another linear layer gives the value. `BatchedPPO` labels whole training batches
in one forward pass. Given the same labels, it collects what PPO collects step by step, except that a rollout also ends
with the epoch. Batch norms always use running statistics, refreshed before each epoch: with the statistics of a
minibatch, the new policy would differ from the old one before its first update.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from mtrl.agents.auxiliary.environment import AuxiliaryEnv
from mtrl.agents.auxiliary.labels import WEIGHT_CLASSES, Labels, weight_of_class
from mtrl.agents.auxiliary.learner import Sizes
from mtrl.agents.auxiliary.options import Config
from mtrl.core.types import Learner, Metrics
from mtrl.data.images import ImageBatch, ImageData, mixed_seed, normalised
from mtrl.networks.convolution import BatchNorm
from mtrl.networks.layers import Linear

_NEVER = -1e8
"""The logit of an impossible label: its probability is zero, and probability times logit stays finite."""


class LabelFeatures(BaseFeaturesExtractor):
    """Maps images and their one-hot primary labels to the images' features and these labels, (B, features + C)."""

    def __init__(self, observation_space: Any, trunk: nn.Module, trunk_size: int, features: int) -> None:
        super().__init__(observation_space, features + int(observation_space["label"].n))
        self.trunk = nn.Sequential(trunk, Linear(trunk_size, features), nn.ReLU())

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        features = self.trunk(observations["image"])
        return torch.cat([features, observations["label"].reshape(len(features), -1)], -1)


class MaskedLogits(nn.Module):
    """(B, features + C) -> logits of the labels, impossible ones masked, and of the weight classes if there are any."""

    def __init__(self, features: int, sizes: Sizes, weight_aware: bool) -> None:
        super().__init__()
        self.features, self.sizes = features, sizes
        self.linear = Linear(features, sizes.auxiliary + WEIGHT_CLASSES * weight_aware)

    def forward(self, latent: Tensor) -> Tensor:
        logits, one_hot = self.linear(latent[..., : self.features]), latent[..., self.features :]
        mask = one_hot.repeat_interleave(self.sizes.subclasses, -1) < 0.5
        labels, weights = logits[..., : self.sizes.auxiliary], logits[..., self.sizes.auxiliary :]
        return torch.cat([labels.masked_fill(mask, _NEVER), weights], -1)


class ValueHead(nn.Module):
    """(B, features + C) -> the value (B, 1), from one linear layer on the image's features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.linear = Linear(features, 1)

    def forward(self, latent: Tensor) -> Tensor:
        return self.linear(latent[..., : self.features])


class LabelPolicy(ActorCriticPolicy):
    """The label agent's policy and value (App. C.2)."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any,
        *,
        make_trunk: Callable[[], nn.Module],
        trunk_size: int,
        features: int,
        sizes: Sizes,
        weight_aware: bool,
        **options: Any,
    ) -> None:
        self._label = (features, sizes, weight_aware)
        options |= {
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": LabelFeatures,
            "features_extractor_kwargs": {"trunk": make_trunk(), "trunk_size": trunk_size, "features": features},
        }
        super().__init__(observation_space, action_space, lr_schedule, **options)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        features, sizes, weight_aware = self._label
        self.action_net = MaskedLogits(features, sizes, weight_aware)
        self.value_net = ValueHead(features)  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def set_training_mode(self, mode: bool) -> None:
        super().set_training_mode(mode)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.eval()

    @torch.no_grad()
    def refresh(self, images: Tensor) -> None:
        """Set the running statistics of all batch norms to those of `images` (B, C, H, W)."""
        norms = [module for module in self.modules() if isinstance(module, BatchNorm)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        extractor = self.features_extractor
        assert isinstance(extractor, LabelFeatures)
        extractor.trunk(images)
        for norm, momentum in zip(norms, usual, strict=True):
            norm.eval()
            norm.momentum = momentum

    def label_logits(self, images: Tensor, labels: Tensor) -> Tensor:
        """images (B, C, H, W), primary labels (B,) -> masked logits (B, K), or (B, K + 21)."""
        one_hot = nn.functional.one_hot(labels, self._label[1].num_classes).to(images.dtype)
        return self.action_net(self.features_extractor({"image": images, "label": one_hot}))


class _Show(BaseCallback):
    """After each rollout, reports how many of the epoch's images have been labelled."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        super().__init__()
        self._progress, self._total = progress, total

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._progress is not None:
            self._progress(min(self.model.num_timesteps, self._total), self._total)


class BatchedPPO(PPO):
    """PPO that labels a whole training batch of its environment at once.

    A rollout holds whole training batches. It ends when it has at least `n_steps` images, or with the epoch.
    """

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        self.policy.set_training_mode(False)
        inner, parts, over, count = env.envs[0].unwrapped, [], False, 0
        callback.on_rollout_start()
        while count < n_rollout_steps and not over:
            images, labels = inner.batch
            with torch.no_grad():
                actions, values, log_probs = self.policy({"image": images, "label": labels})  # type: ignore[arg-type]
            labelled = actions.cpu().numpy()
            reward, over = inner.step_batch(labelled)
            rewards = np.zeros(len(labelled), np.float32)
            rewards[-1] = reward
            arrays = (images, labels.unsqueeze(1), labelled.reshape(len(labelled), -1), rewards, values, log_probs)
            parts.append([a.cpu().numpy() if isinstance(a, Tensor) else a for a in arrays])
            count += len(labelled)
        self.num_timesteps += count
        starts = np.zeros(count, np.float32)
        starts[0] = float(np.asarray(self._last_episode_starts)[0])
        self._last_episode_starts = np.array([over])
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        _fill(rollout_buffer, columns, starts)
        with torch.no_grad():
            images, labels = inner.batch
            first: Any = {"image": images[:1], "label": labels[:1]}
            following = torch.zeros(1) if over else self.policy.predict_values(first)
        _estimate(rollout_buffer, float(following.reshape(())))
        callback.on_rollout_end()
        return True


def _fill(buffer: Any, columns: list[Any], starts: Any) -> None:
    """Resize the buffer to the collected columns, and fill it with them."""
    images, labels, actions, rewards, values, log_probs = columns
    buffer.buffer_size = len(rewards)
    buffer.reset()
    for key, value in (("image", images), ("label", labels)):
        buffer.observations[key][:, 0] = value
    buffer.actions[:, 0] = actions
    for name, value in (("rewards", rewards), ("values", values), ("log_probs", log_probs), ("episode_starts", starts)):
        getattr(buffer, name)[:, 0] = value.reshape(-1)
    buffer.pos, buffer.full = len(rewards), True


def _estimate(buffer: Any, following: float) -> None:
    """Write generalised advantages A_t = δ_t + γ λ A_(t+1), and returns, to the buffer.

    One linear filter computes them all, since no episode ends inside a rollout. following: the value of the image after
    the last one; 0 at the end of an epoch.
    """
    values, rewards = (getattr(buffer, name)[:, 0].astype(np.float64) for name in ("values", "rewards"))
    delta = rewards + buffer.gamma * np.append(values[1:], following) - values
    advantages = lfilter([1.0], [1.0, -buffer.gamma * buffer.gae_lambda], delta[::-1])[::-1]
    buffer.advantages[:, 0] = advantages
    buffer.returns = buffer.advantages + buffer.values


class RLLabels(Labels):
    """Labels that a PPO agent chooses."""

    def __init__(
        self,
        config: Config,
        learner: Learner,
        sizes: Sizes,
        make_trunk: Callable[[], nn.Module],
        trunk_size: int,
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.learner, self.sizes = config, learner, sizes
        self._device, self.seed = device, seed
        self._policy_options = {
            "make_trunk": make_trunk,
            "trunk_size": trunk_size,
            "features": config.ppo.features,
            "sizes": sizes,
            "weight_aware": config.weight_aware,
        }
        self.model: PPO | None = None
        self._pending: Mapping[str, Any] | None = None

    def prepare(self, data: ImageData) -> None:
        """Make the agent and its environment with the training images, unless they exist."""
        if self.model is not None:
            return
        env = AuxiliaryEnv(self.learner, data, self.sizes, self.label_probabilities, self.config)
        config, batch = self.config.ppo, self.config.batch_size
        images = len(data.train.labels[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
            self.model = (BatchedPPO if self.config.engine == "batched" else PPO)(
                LabelPolicy,
                env,
                learning_rate=config.learning_rate,
                n_steps=min(-(-config.rollout_size // batch) * batch, images),
                batch_size=config.minibatch,
                n_epochs=config.epochs,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
                clip_range=config.clip_range,
                ent_coef=config.entropy_coefficient,
                policy_kwargs=self._policy_options,
                device=self._device,
            )
        # Without this, each epoch would open a log in a new temporary folder.
        self.model.set_logger(Logger(None, []))
        if self._pending is not None:
            self._load(self._pending)

    @property
    def policy(self) -> LabelPolicy:
        assert self.model is not None
        return self.model.policy  # type: ignore[return-value]

    @property
    def env(self) -> AuxiliaryEnv:
        assert self.model is not None and self.model.env is not None
        return self.model.env.envs[0].unwrapped  # type: ignore[attr-defined]

    def epoch(self, data: ImageData, number: int, progress: Callable[[int, int], None] | None = None) -> Metrics:
        self.prepare(data)
        assert self.model is not None and self.model.env is not None
        pool, rows = data.train.pool, data.train.rows[0]
        self.policy.refresh(normalised(pool[rows[: self.config.reward_size]], data.mean, data.deviation))
        self.env.set_canonical()
        self.model.env.seed(mixed_seed(self.seed, 2, number) % (1 << 31))
        total = len(data.train.labels[0])
        self.model.learn(total, callback=_Show(progress, total), log_interval=None)  # type: ignore[arg-type]
        self.learner.restore(self.env.canonical)
        return {"label/reward": torch.tensor(self.env.last_rewards).mean()}

    @torch.no_grad()
    def label_probabilities(self, images: Tensor, labels: Tensor) -> Tensor:
        """images (B, C, H, W), primary labels (B,) -> the probability π(k | x) of each label, (B, K)."""
        self.policy.set_training_mode(False)
        return self.policy.label_logits(images, labels)[:, : self.sizes.auxiliary].softmax(-1)

    @torch.no_grad()
    def assign(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None]:
        """The likeliest label of each image under the policy, (B,), and with `weight_aware` its weight, (B,)."""
        self.policy.set_training_mode(False)
        logits = self.policy.label_logits(batch.images[0], batch.labels[0])
        labels = logits[:, : self.sizes.auxiliary].argmax(-1)
        if not self.config.weight_aware:
            return labels, None
        return labels, weight_of_class(logits[:, self.sizes.auxiliary :].argmax(-1))

    def state_dict(self) -> dict[str, Any]:
        if self.model is None:
            return dict(self._pending or {})
        return {"policy": self.policy.state_dict(), "optimizer": self.policy.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved state now if the agent exists, otherwise when `prepare` makes it."""
        if self.model is None:
            self._pending = copy.deepcopy(dict(state))
        else:
            self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        if state:
            self.policy.load_state_dict(state["policy"])
            self.policy.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
