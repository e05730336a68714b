"""Options of auxiliary learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mtrl.agents.auxiliary.maxl import MAXLConfig
from mtrl.agents.base import AgentConfig
from mtrl.core.config import check, check_choice
from mtrl.core.specs import ImageSpec, Spec

METHODS = ("rl", "maxl", "human", "none")


@dataclass
class PPOConfig:
    """Options of the label agent, PPO: the first three as in the paper, which names no other.

    The last four are stable-baselines3's defaults. The rollout of 2,000 and the mini-batch of 100 are whole training
    batches, where stable-baselines3 has 2,048 and 64.
    """

    learning_rate: float = 3e-4
    """Adam's."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy in its loss."""
    features: int = 256
    """Units between the trunk and the policy's outputs."""
    rollout_size: int = 2000
    """Images labelled between two updates of the policy, in whole training batches: only these are rewarded."""
    epochs: int = 10
    """Passes over a rollout."""
    minibatch: int = 100
    """Images of a mini-batch."""
    gamma: float = 0.99
    """γ."""
    gae_lambda: float = 0.95
    """λ of the generalised advantage estimate."""
    clip_range: float = 0.2
    """How far the probability ratio may move."""

    def __post_init__(self) -> None:
        check(self.learning_rate > 0, "agent.ppo.learning_rate", "positive", self.learning_rate)
        check(self.clip_range > 0, "agent.ppo.clip_range", "positive", self.clip_range)
        for name in ("features", "rollout_size", "epochs"):
            check(getattr(self, name) >= 1, f"agent.ppo.{name}", "a positive integer", getattr(self, name))
        check(self.minibatch >= 2, "agent.ppo.minibatch", "2 or more", self.minibatch)
        for name in ("gamma", "gae_lambda"):
            check(0 <= getattr(self, name) <= 1, f"agent.ppo.{name}", "in [0, 1]", getattr(self, name))


@dataclass
class Config(AgentConfig):
    """The numbers are paper 003's, App. B, where it has them."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ImageSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("auxiliary",)
    kind: str = "auxiliary"
    method: str = "rl"
    """Who gives auxiliary labels: rl, maxl, human, or none."""
    weight_aware: bool = False
    """Whether rl or maxl also give each image's weight."""
    batch_size: int = 100
    """B_T: images of a training batch."""
    reward_size: int = 256
    """B_R: images on which the reward is calculated."""
    hierarchy: int = 5
    """ψ: auxiliary classes of each primary class."""
    learning_rate: float = 0.01
    """SGD's, for the main network, at the start of the schedule."""
    momentum: float = 0.0
    """SGD's; the paper names none."""
    weight_decay: float = 0.0
    """SGD's; the paper names none."""
    auxiliary_weight: float = 1.0
    """λ: weight of the auxiliary loss."""
    focusing: float = 2.0
    """γ of the auxiliary focal loss (MAXL's; the paper names none)."""
    primary_focusing: float | None = None
    """γ of the primary focal loss. If not given, 2 with method=maxl, as in its authors' code, and 0, which is the
    cross-entropy, with the others. (RL-AUX's published code has 2 throughout, its paper does not name the loss.)"""
    mask_head: bool = False
    """Mask the auxiliary head's softmax by the hierarchy too, and not the labels alone."""
    entropy_weight: float = 1.0
    """c: weight of the entropy in RL-AUX's reward."""
    entropy_sign: str = "spread"
    """spread: reward many labels; paper: the sign as printed, which rewards few."""
    reset_every: str = "epoch"
    """When agent training puts the main network back: after each epoch or batch."""
    head_width: int = 512
    """Hidden units of each head; 0 for a single linear layer."""
    engine: str = "batched"
    """How RL-AUX collects labels: batched (a training batch in one forward) or steps (one image a step)."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    maxl: MAXLConfig = field(default_factory=MAXLConfig)

    def __post_init__(self) -> None:
        check_choice("agent.method", self.method, METHODS)
        check_choice("agent.entropy_sign", self.entropy_sign, ("spread", "paper"))
        check_choice("agent.reset_every", self.reset_every, ("epoch", "batch"))
        check_choice("agent.engine", self.engine, ("batched", "steps"))
        for name in ("batch_size", "reward_size", "hierarchy"):
            check(getattr(self, name) >= 1, f"agent.{name}", "a positive integer", getattr(self, name))
        check(self.learning_rate > 0, "agent.learning_rate", "positive", self.learning_rate)
        check(0 <= self.momentum < 1, "agent.momentum", "in [0, 1)", self.momentum)
        for name in ("weight_decay", "auxiliary_weight", "focusing", "entropy_weight", "head_width"):
            check(getattr(self, name) >= 0, f"agent.{name}", "0 or more", getattr(self, name))
        focusing = self.primary_focusing
        check(focusing is None or focusing >= 0, "agent.primary_focusing", "0 or more", focusing)
        learned = self.method in ("rl", "maxl")
        check(learned or not self.weight_aware, "agent.weight_aware", "false for labels of people or none", True)
